"""Siblings: near copies share one reward."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from services.reward.batch import Batch, Floats
from services.reward.words import words
from services.reward.work import TextOp

SHINGLE = 3
SKETCH = 64
"""Minima kept of each text: similarity is estimated within about 0.06."""

_RANDOM = np.random.default_rng(20240607)
_FACTORS = _RANDOM.integers(1, 2**63, SKETCH, dtype=np.uint64) | np.uint64(1)
_TERMS = _RANDOM.integers(0, 2**63, SKETCH, dtype=np.uint64)


class Siblings:
    """1 / (size of the cluster) where texts whose word shingles agree to ``similar`` are one cluster.

    Ten keys that serve one cached answer get one reward between them. Similarity is Jaccard's, estimated by
    min-hashes (Broder 1997), so changed blanks, case and punctuation do not hide a copy, nor do a few words.
    """

    def __init__(self, *, similar: float = 0.9) -> None:
        self._similar = similar
        self._op = TextOp("siblings", sketch, len)

    async def values(self, batch: Batch) -> Floats:
        """See Mask."""
        n = len(batch)
        sketches = (
            np.stack(await batch.runner.run(self._op, batch.completions)) if n else np.zeros((0, SKETCH))
        )
        cluster = np.arange(n)
        for i in range(1, n):
            alike = np.flatnonzero((sketches[:i] == sketches[i]).mean(axis=1) >= self._similar)
            for j in alike.tolist():
                if cluster[j] != cluster[i]:
                    cluster[cluster == cluster[j]] = cluster[i]
        return np.array([1.0 / np.count_nonzero(cluster == cluster[i]) for i in range(n)])


def sketch(text: str) -> np.ndarray:
    """Min-hashes uint64 [SKETCH] of a text's shingles of three words (of all its words, when it has fewer)."""
    said = words(text) or [text[:64]]
    shingles = {" ".join(said[i : i + SHINGLE]) for i in range(max(1, len(said) - SHINGLE + 1))}
    codes = np.array([_fingerprint(shingle) for shingle in shingles], dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = codes[:, None] * _FACTORS + _TERMS
        mixed ^= mixed >> np.uint64(29)
    return mixed.min(axis=0)


def _fingerprint(shingle: str) -> int:
    # Not hash(): Python salts it, and replicas must agree.
    return int.from_bytes(blake2b(shingle.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
