"""What a head expects of certain hotkeys, made ready once so that a prompt costs a product or two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Outlook:
    """Expectations of the hotkeys that a head was asked to make ready, as the head was then.

    Holds for a head that learns no more, such as one read from a checkpoint. The unit is that of Head.scores.
    """

    def __init__(
        self,
        features: Callable[[np.ndarray], np.ndarray],
        weights: np.ndarray,
        variance: Callable[[np.ndarray], np.ndarray],
        least: float = 1e-9,
    ) -> None:
        """``features`` of embeddings [1, d] are [1, p]; ``weights`` [n, p]; ``variance`` of features [p] is [n],
        at least ``least``."""
        self._features = features
        self._weights = weights
        self._variance = variance
        self._least = least

    def describe(self, embedding: np.ndarray) -> np.ndarray:
        """The features float64 [p] of an embedding [d]: what the other methods take."""
        return self._features(embedding[None])[0]

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Expectations float64 [n]."""
        return np.asarray(self._weights @ x, dtype=np.float64)

    def std(self, x: np.ndarray) -> np.ndarray:
        """Standard deviations float64 [n]. Costs more than the mean: ask for it where it is used."""
        return np.sqrt(np.clip(self._variance(x), self._least, None))


class Covariances:
    """x' C x of hotkeys for one x. Their matrices are packed when first asked for, to a quarter of their bytes:
    a choice of a given number needs none of them."""

    def __init__(self, matrices: np.ndarray, other: np.ndarray, rows: np.ndarray) -> None:
        """Of ``matrices`` [m, p, p], which stay as they are, the ``rows`` [n]; ``other`` [p, p] where it is -1."""
        self._matrices, self._other, self._rows = matrices, other, rows
        self._upper = np.triu_indices(other.shape[0])
        self._packed: np.ndarray | None = None

    def _pack(self) -> np.ndarray:
        p = self._other.shape[0]
        at = self._upper[0] * p + self._upper[1]
        twice = np.where(self._upper[0] == self._upper[1], 1.0, 2.0)
        packed = np.empty((self._rows.size, at.size), dtype=np.float32)
        known = self._rows >= 0
        packed[known] = self._matrices.reshape(-1, p * p)[self._rows[known]].take(at, axis=1) * twice
        packed[~known] = self._other.ravel()[at] * twice
        return packed

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float64 [n] for x [p]."""
        if self._packed is None:
            self._packed = self._pack()
        products = (x[self._upper[0]] * x[self._upper[1]]).astype(np.float32)
        return (self._packed @ products).astype(np.float64)
