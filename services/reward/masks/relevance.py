"""Relevance as a mask: nothing for what is off the topic."""

from __future__ import annotations

import numpy as np

from services.reward.batch import Batch, Embeds, Floats


class RelevanceThreshold:
    """1 where the cosine of prompt and completion reaches the threshold, else 0. Calibrate it for the encoder."""

    def __init__(self, encoder: Embeds, *, threshold: float) -> None:
        self._encoder = encoder
        self._threshold = threshold

    async def values(self, batch: Batch) -> Floats:
        """See Mask."""
        prompt, completions = await batch.embedded(self._encoder)
        return np.where(completions @ prompt >= self._threshold, 1.0, 0.0)
