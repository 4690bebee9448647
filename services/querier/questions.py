"""Which questions are worth asking, and the bundled ones."""

from __future__ import annotations

import random
import re
from collections import OrderedDict
from collections.abc import Sequence

from services.querier.cleaning import clean

MIN_CHARS = 11
"""A question has more than ten characters."""
REMEMBERED = 10_000
# Scripts without blanks between words: each character is a word.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_MARKS = "?？؟⸮՞"
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|here)\b[^?\n]{0,80}[:!.]\s+|(?:question|q)\s*\d*\s*[:.)]\s*"
    r"|\(?\d{1,3}[.):]\s+|[-*•]\s+|\*\*|[\"'“”‘’«»`])+",
    re.IGNORECASE,
)
"""What comes before a question that was asked for: courtesies, numbers, bullets, quotation marks."""
MAX_MARKS = 3
"""More questions than these at once are a list."""


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


def says_something(text: str) -> bool:
    """Whether a clean text has enough words that differ."""
    words = _WORDS.findall(text.casefold())
    return len(text) >= MIN_CHARS and len(words) >= 3 and len(set(words)) * 3 >= len(words)


def question_in(text: str) -> str | None:
    """The question that a clean text asks, without preamble and without an answer after it; None for no question."""
    text = _PREAMBLE.sub("", text).strip()
    question = text[: max(text.rfind(mark) for mark in _MARKS) + 1].strip()
    if not question or sum(question.count(mark) for mark in _MARKS) > MAX_MARKS:
        return None
    # A text in which a question comes up, and that goes on from there, is no question.
    return question if 2 * len(question) >= len(text) else None


class Sieve:
    """Cleans questions of strangers and lets each pass once; remembers the last ``remembered``."""

    def __init__(self, max_chars: int, *, remembered: int = REMEMBERED) -> None:
        self._max_chars = max_chars
        self._remembered = remembered
        self._seen: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def take(self, text: str) -> str | None:
        """The cleaned question, or None when it is none, says nothing, or was asked before."""
        question = question_in(clean(text, self._max_chars))
        if question is None or not says_something(question) or not self.is_new(question):
            return None
        return question

    def is_new(self, text: str) -> bool:
        """Whether these words, in this order, have not come before; from now on they have."""
        key = hash(tuple(_WORDS.findall(text.casefold())))
        if key in self._seen:
            self._seen.move_to_end(key)
            return False
        self._seen[key] = None
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return True
