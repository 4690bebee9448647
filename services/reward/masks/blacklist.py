"""Blacklist: listed phrases however spelt, the same thing over and over, and the prompt given back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.reward.batch import Batch, Floats
from services.reward.words import trigrams, words
from services.reward.work import TextOp

NGRAM = 3
FEW_NGRAMS = 12
"""Fewer than this repeat nothing worth counting."""
PACKED_LOW, PACKED_HIGH = 0.08, 0.16
"""Share of its size that a text deflates to. Prose is above 0.3 even at 20,000 characters."""
PACKED_FROM = 400
"""Bytes from which deflating says something."""


class Phrase:
    """A phrase that is found wherever ``similar`` of its trigrams stand together."""

    def __init__(self, text: str, similar: float) -> None:
        grams = trigrams(f" {' '.join(words(text))} ")
        self._grams = np.unique(grams)
        self._span = len(grams)
        self._needed = similar * len(self._grams)

    def found(self, grams: NDArray[np.int64]) -> bool:
        """Whether the phrase is in a text's trigrams (in order)."""
        if not self._span:
            return False
        places = np.minimum(np.searchsorted(self._grams, grams), len(self._grams) - 1)
        hits = self._grams[places] == grams
        if np.count_nonzero(hits) < self._needed:
            return False
        near = np.convolve(hits, np.ones(self._span), mode="full") if len(grams) else np.zeros(0)
        for end in np.flatnonzero(near >= self._needed).tolist():
            # Counted with repetitions so far: "the the the" must not make up a phrase.
            window = grams[max(0, end - self._span + 1) : end + 1]
            if len(np.unique(window[np.isin(window, self._grams)])) >= self._needed:
                return True
        return False


class Blacklist:
    """The product of three factors in [0, 1]; the text is read as words without case, accents or punctuation.

    - ``hit`` where a listed phrase is found;
    - how varied the text is: the share of distinct word trigrams, from 0 at ``distinct_low`` to 1 at
      ``distinct_high``, and whether it deflates to almost nothing;
    - what it adds to the prompt: 1 from ``new_words`` distinct words that the prompt does not have (a question
      given back is as close to the prompt as a text can be, and would have the highest relevance).
    """

    def __init__(
        self,
        phrases: Sequence[str] = (),
        *,
        similar: float = 0.8,
        hit: float = 0.0,
        distinct_low: float = 0.3,
        distinct_high: float = 0.6,
        new_words: int = 5,
    ) -> None:
        self._phrases = [Phrase(phrase, similar) for phrase in phrases]
        self._hit = hit
        self._low = distinct_low
        self._span = max(distinct_high - distinct_low, 1e-9)
        self._new_words = new_words
        self._op = TextOp("blacklist", self._judge, lambda item: len(item[1]))

    async def values(self, batch: Batch) -> Floats:
        """See Mask."""
        known = frozenset(words(batch.prompt))
        return np.array(await batch.runner.run(self._op, [(known, c) for c in batch.completions]))

    def _judge(self, item: tuple[frozenset[str], str]) -> float:
        known, completion = item
        said = words(completion)
        value = self._variety(said) * self._novelty(said, known)
        if value and self._phrases:
            grams = trigrams(f" {' '.join(said)} ")
            if any(phrase.found(grams) for phrase in self._phrases):
                value *= self._hit
        return value

    def _variety(self, said: list[str]) -> float:
        value = 1.0
        total = len(said) - NGRAM + 1
        if total >= FEW_NGRAMS:
            distinct = len(set(zip(*(said[i:] for i in range(NGRAM)), strict=False))) / total
            value = _ramp((distinct - self._low) / self._span)
        packed = " ".join(said).encode("utf-8", "surrogatepass")
        if len(packed) >= PACKED_FROM:
            share = len(zlib.compress(packed, 6)) / len(packed)
            value = min(value, _ramp((share - PACKED_LOW) / (PACKED_HIGH - PACKED_LOW)))
        return value

    def _novelty(self, said: list[str], known: frozenset[str]) -> float:
        if not self._new_words:
            return 1.0
        return min(1.0, len(set(said) - known) / self._new_words)


def _ramp(x: float) -> float:
    return min(1.0, max(0.0, x))
