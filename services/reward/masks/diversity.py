"""Diversity: less for what others of the batch say too."""

from __future__ import annotations

import numpy as np

from services.reward.batch import Batch, Embeds, Floats


class Diversity:
    """``floor + (1 - floor) * sigmoid(slope * d - offset)``, d the mean cosine distance to the ``nearest`` others.

    openvalidators' curve (slope 40, offset 4, the two nearest) is the default. It goes to 0 for copies; the
    floor keeps a right answer that several honest miners give from being worth less than a wrong one that
    nobody else gives. Alone in its batch, a completion is as diverse as can be.
    """

    def __init__(
        self,
        encoder: Embeds,
        *,
        slope: float = 40.0,
        offset: float = 4.0,
        nearest: int = 2,
        floor: float = 0.0,
    ) -> None:
        self._encoder = encoder
        self._slope = slope
        self._offset = offset
        self._nearest = nearest
        self._floor = floor

    async def values(self, batch: Batch) -> Floats:
        """See Mask."""
        n = len(batch)
        if n < 2:
            return np.ones(n)
        _, vectors = await batch.embedded(self._encoder)
        distances = 1.0 - (vectors @ vectors.T).astype(np.float64)
        np.fill_diagonal(distances, np.inf)
        k = min(self._nearest, n - 1)
        d = np.partition(distances, k - 1, axis=1)[:, :k].mean(axis=1)
        curve = 0.5 + 0.5 * np.tanh((self._slope * d - self._offset) / 2)
        return self._floor + (1.0 - self._floor) * curve
