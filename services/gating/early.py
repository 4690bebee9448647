"""What was learnt on which prompt, while the basis is still open."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from services.gating.rows import grown


class EarlyPrompts:
    """The first distinct prompts' embeddings, and each row's count and sum of targets on each of them.

    Enough to tell any basis all that was learnt before it, in memory bounded by rows times ``limit``. Half of all
    events are one and the same question prompt: prompts are told apart by their embeddings' bits.
    """

    def __init__(self, dim: int, limit: int) -> None:
        self.limit = limit
        self._columns: dict[bytes, int] = {}
        self._embeddings = np.zeros((0, dim), dtype=np.float32)
        self._counts = np.zeros((0, limit), dtype=np.float32)
        self._sums = np.zeros((0, limit), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def embeddings(self) -> np.ndarray:
        """Of the distinct prompts in order, float32 [len, d]."""
        return self._embeddings[: len(self)]

    def column(self, embedding: np.ndarray) -> tuple[int, bool]:
        """The prompt's place, and whether it is a new one. At most ``limit`` prompts may be told apart."""
        stored = np.ascontiguousarray(embedding, dtype="<f4")
        key = blake2b(stored.tobytes(), digest_size=16).digest()
        found = self._columns.get(key)
        if found is not None:
            return found, False
        column = self._columns[key] = len(self._columns)
        self._embeddings = grown(self._embeddings, column + 1)
        self._embeddings[column] = stored
        return column, True

    def add(self, rows: np.ndarray, column: int, targets: np.ndarray) -> None:
        """Targets [n] that distinct ``rows`` [n] had on a prompt."""
        self._counts[rows, column] += 1.0
        self._sums[rows, column] += targets

    def grow(self, rows: int) -> None:
        """Room for so many rows."""
        self._counts = grown(self._counts, rows)
        self._sums = grown(self._sums, rows)

    def clear(self, rows: np.ndarray) -> None:
        """Forget what ``rows`` did."""
        self._counts[rows] = 0.0
        self._sums[rows] = 0.0

    def evidence(self, features: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """With features [len, p]: the first ``rows`` rows' sums of x x' [rows, p, p], of y x [rows, p], and counts."""
        n, p = features.shape
        counts, sums = self._counts[:rows, :n].astype(float), self._sums[:rows, :n].astype(float)
        products = (features[:, :, None] * features[:, None, :]).reshape(n, p * p)
        return (counts @ products).reshape(rows, p, p), sums @ features, counts.sum(axis=1)

    def residuals(self, features: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """With features [len, p] and regressions ``mean`` [rows, p]: each row's count, and its sum of targets less
        what the regression expects, on each prompt; float64 [rows, len] each."""
        rows, n = mean.shape[0], features.shape[0]
        counts, sums = self._counts[:rows, :n].astype(float), self._sums[:rows, :n].astype(float)
        return counts, sums - counts * (mean @ features.T)

    def arrays(self, rows: int) -> dict[str, np.ndarray]:
        """The state of the first ``rows`` rows as arrays, for a checkpoint."""
        n = len(self)
        return {
            "early_embeddings": self.embeddings,
            "early_counts": self._counts[:rows, :n],
            "early_sums": self._sums[:rows, :n],
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], limit: int) -> EarlyPrompts:
        """What ``arrays()`` described."""
        embeddings = arrays["early_embeddings"]
        made = cls(embeddings.shape[1], limit)
        for embedding in embeddings:
            made.column(embedding)
        made.grow(arrays["early_counts"].shape[0])
        rows, n = arrays["early_counts"].shape
        made._counts[:rows, :n] = arrays["early_counts"]
        made._sums[:rows, :n] = arrays["early_sums"]
        return made
