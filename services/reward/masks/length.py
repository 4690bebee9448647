"""Length: too short to say anything, or long-winded."""

from __future__ import annotations

import numpy as np

from services.reward.batch import Batch, Floats
from services.reward.engine.text import visible


class Length:
    """``n / min_chars`` below ``min_chars``, ``max_chars / n`` above ``max_chars``, else 1; never below ``floor``.

    n counts characters that are seen, without surrounding and repeated blanks, so that nothing pads or hides unseen.
    """

    def __init__(self, *, min_chars: int, max_chars: int, floor: float = 0.0) -> None:
        self._min = min_chars
        self._max = max_chars
        self._floor = floor

    async def values(self, batch: Batch) -> Floats:
        """See Mask."""
        lengths = np.array([_length(visible(c).split()) for c in batch.completions], dtype=np.float64)
        short = lengths / self._min if self._min else np.ones(len(batch))
        long = self._max / np.maximum(lengths, 1)
        return np.clip(np.minimum(short, long), self._floor, 1.0)


def _length(words: list[str]) -> int:
    return max(0, sum(map(len, words)) + len(words) - 1)
