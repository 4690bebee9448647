"""Common phrases: what so many say, whatever they are asked, that it says nothing."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from services.reward.batch import Batch
from services.reward.learnt import LIMIT, CommonPhrases, Signs, filled
from services.reward.statistics import Statistics
from services.reward.words import words
from services.reward.work import TextOp

WORDS = 7
"""Words of a phrase: fewer in a row are common to all who speak the language."""
SLOTS = 8
"""Phrases of a completion in its signature, 32 bytes."""
FEWEST_EVENTS = 100
"""Before so many events nothing is known to be common."""


class Phrases:
    """The learnt half of the blacklist: ``2 - share / common`` in [``hit``, 1], of a completion's commonest phrase.

    The share is the decayed mean over events of the part of their completions that say the phrase. A signature
    holds those phrases that are counted already, commonest first, and fills up with those of the smallest hash,
    which is how new ones come to be counted: the same ones in every completion that says them.
    """

    columns = SLOTS

    def __init__(self, *, common: float, hit: float = 0.0) -> None:
        self._common = common
        self._hit = hit
        self._sign = TextOp("phrases", _sign, lambda item: len(item[0]))
        self.op = TextOp("common", self.factor, lambda item: SLOTS)

    async def signs(self, batch: Batch, statistics: Statistics) -> Signs:
        """See Learnt."""
        known = statistics.phrases
        rows = await batch.runner.run(self._sign, [(text, known) for text in batch.completions])
        return np.array(rows, dtype=np.int64).reshape(-1, SLOTS)

    def factor(self, item: tuple[list[int], Statistics]) -> float:
        """See Learnt."""
        row, statistics = item
        known = statistics.phrases
        if known.events < FEWEST_EVENTS:
            return 1.0
        share = max(known.share(code) for code in row)
        return min(1.0, max(self._hit, 2.0 - share / self._common))

    def learn(self, state: Statistics, signs: Signs) -> None:
        """See Learnt."""
        state.phrases = state.phrases.copy()
        state.phrases.add(signs)


def _sign(item: tuple[str, CommonPhrases]) -> list[int]:
    text, known = item
    said = words(text)
    codes = {_code(said[i : i + WORDS]) for i in range(len(said) - WORDS + 1)}
    return filled(sorted(codes, key=lambda code: (-known.counts.get(code, 0.0), code)), SLOTS)


def _code(phrase: list[str]) -> int:
    digest = blake2b(" ".join(phrase).encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "little") % LIMIT
