"""Relevance: how close a completion is to what was asked."""

from __future__ import annotations

import numpy as np

from services.reward.batch import Batch, Embeds, Floats


class Relevance:
    """The cosine of prompt and completion embeddings, in [-1, 1]."""

    def __init__(self, name: str, encoder: Embeds) -> None:
        self._name = name
        self._encoder = encoder

    def key(self, batch: Batch) -> str:
        """Always the same scale."""
        return self._name

    async def raw(self, batch: Batch) -> Floats:
        """See Function."""
        prompt, completions = await batch.embedded(self._encoder)
        return (completions @ prompt).astype(np.float64)
