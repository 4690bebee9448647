"""The diversity history: less for what was said to other prompts already."""

from __future__ import annotations

from functools import cache
from hashlib import blake2b, shake_256

import numpy as np
from numpy.typing import NDArray

from services.reward.batch import Batch, Embeds
from services.reward.learnt import LIMIT, NOTHING, Signs
from services.reward.statistics import Statistics
from services.reward.work import TextOp

PIECES = 6
PIECE_BITS = 24
BITS = PIECES * PIECE_BITS


class History:
    """Diversity's curve over the distance to the ``nearest`` of the last ``history`` completions to other prompts.

    An answer that fits many questions answers none. The same question may be asked again, and then the right
    answer is the same: completions to the same prompt are not compared. A signature is a hash of the prompt
    and 144 bits of the embedding, the sides of as many random planes it is on (Charikar 2002): the share of
    bits that differ is the angle / pi, give or take 0.04, at 28 bytes a completion.
    """

    columns = 1 + PIECES

    def __init__(
        self, encoder: Embeds, *, history: int, slope: float, offset: float, nearest: int, floor: float
    ) -> None:
        self._encoder = encoder
        self._history = history
        self._slope = slope
        self._offset = offset
        self._nearest = nearest
        self._floor = floor
        self.op = TextOp("history", self.factor, lambda item: history)

    async def signs(self, batch: Batch, statistics: Statistics) -> Signs:
        """See Learnt."""
        _, vectors = await batch.embedded(self._encoder)
        rows = np.empty((len(batch), self.columns), dtype=np.int64)
        rows[:, 0] = _code(batch.prompt)
        rows[:, 1:] = simhash(vectors)
        rows[[not completion.strip() for completion in batch.completions]] = NOTHING
        return rows

    def factor(self, item: tuple[list[int], Statistics]) -> float:
        """See Learnt."""
        row, statistics = item
        known = statistics.recent.signs
        if row[0] == NOTHING or not len(known):
            return 1.0
        others = known[known[:, 0] != row[0], 1:]
        if not len(others):
            return 1.0
        differ = np.bitwise_count(others ^ np.array(row[1:], dtype=np.uint32)).sum(axis=1, dtype=np.int64)
        k = min(self._nearest, len(others))
        d = float((1.0 - np.cos(np.partition(differ, k - 1)[:k] * (np.pi / BITS))).mean())
        return self._floor + (1.0 - self._floor) * float(
            0.5 + 0.5 * np.tanh((self._slope * d - self._offset) / 2)
        )

    def learn(self, state: Statistics, signs: Signs) -> None:
        """See Learnt."""
        state.recent = state.recent.added(signs, self._history)


def simhash(vectors: NDArray[np.float32]) -> Signs:
    """int64 [n, PIECES] of 24 bits each: on which side of each plane the vectors [n, dim] are."""
    sides = (vectors @ _planes(vectors.shape[1])).reshape(len(vectors), PIECES, PIECE_BITS) > 0
    return (sides.astype(np.int64) << np.arange(PIECE_BITS)).sum(axis=2)


@cache
def _planes(dim: int) -> NDArray[np.float32]:
    # Not numpy's generator: its streams may change, and recorded signatures must stay comparable.
    drawn = np.frombuffer(shake_256(b"coremesh diversity history").digest(dim * BITS // 8), dtype=np.uint8)
    return np.where(np.unpackbits(drawn), 1.0, -1.0).astype(np.float32).reshape(dim, BITS)


def _code(prompt: str) -> int:
    digest = blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "little") % LIMIT
