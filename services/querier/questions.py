"""Where training questions come from, and which are worth asking."""

from __future__ import annotations

import random
import re
from collections import OrderedDict
from collections.abc import Sequence

from services.querier.cleaning import clean

MIN_CHARS = 11
"""A question has more than ten characters."""
REMEMBERED = 10_000
_WORDS = re.compile(r"\w+")


class Bundled:
    """Questions in random order, each once before any comes again."""

    def __init__(self, questions: Sequence[str], *, seed: int | None = None) -> None:
        """Raises ValueError without questions."""
        if not questions:
            raise ValueError("there are no bundled questions")
        self._questions = tuple(questions)
        self._random = random.Random(seed)
        self._left: list[str] = []

    def next(self) -> str:
        """The next question."""
        if not self._left:
            self._left = self._random.sample(self._questions, len(self._questions))
        return self._left.pop()


class Sieve:
    """Cleans questions of strangers and lets each pass once; remembers the last ``remembered``."""

    def __init__(self, max_chars: int, *, remembered: int = REMEMBERED) -> None:
        self._max_chars = max_chars
        self._remembered = remembered
        self._seen: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def take(self, text: str) -> str | None:
        """The cleaned question, or None when it is too short, says nothing, or was asked before."""
        question = clean(text, self._max_chars)
        words = _WORDS.findall(question.casefold())
        if len(question) < MIN_CHARS or len(words) < 3 or len(set(words)) * 3 < len(words):
            return None
        key = hash(tuple(words))
        if key in self._seen:
            self._seen.move_to_end(key)
            return None
        self._seen[key] = None
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return question
