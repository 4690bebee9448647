"""Texts as words and trigrams, in a form that spelling tricks do not change."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

MOST_CHARS = 20_000
"""What is counted of a text; a completion that needs more to repeat itself is over-long anyway."""

# Scripts without blanks between words: each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")


def words(text: str) -> list[str]:
    """The words of the beginning of a text: compatibility forms folded, no case, no accents, no punctuation."""
    folded = unicodedata.normalize("NFKD", text[:MOST_CHARS].casefold())[: 2 * MOST_CHARS]
    return _WORD.findall("".join(c for c in folded if not unicodedata.combining(c)))


def trigrams(spaced: str) -> NDArray[np.int64]:
    """The character trigrams of a text as numbers, in order; empty for fewer than three characters."""
    codes = np.frombuffer(spaced.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
    if len(codes) < 3:
        return np.zeros(0, dtype=np.int64)
    return codes[:-2] << 42 | codes[1:-1] << 21 | codes[2:]


RUN = 4
"""Words in a row that are taken for the prompt's own."""


def without_echo(prompt: str, text: str) -> str | None:
    """The words of a text that do not repeat four or more of the prompt's in a row; None when none do."""
    said = words(text)
    asked = words(prompt)
    runs = {tuple(asked[i : i + RUN]) for i in range(len(asked) - RUN + 1)}
    echoed = [False] * len(said)
    for i in range(len(said) - RUN + 1):
        if tuple(said[i : i + RUN]) in runs:
            echoed[i : i + RUN] = [True] * RUN
    if not any(echoed):
        return None
    return " ".join(word for word, old in zip(said, echoed, strict=True) if not old)
