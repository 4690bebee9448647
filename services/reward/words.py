"""Texts as words and trigrams, in a form that spelling tricks do not change."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.reward.engine.text import visible, without_spellings

MOST_CHARS = 20_000
"""What is counted of a text; a completion that needs more to repeat itself is over-long anyway."""

# Scripts without blanks between words: each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
_SEPARATES = "Cc"
_REPLACEMENT = "\ufffd"

# Letters of other scripts that are drawn like Latin ones, after Unicode's confusables.txt (UTS 39).
_CYRILLIC = dict(zip("авеһіјкмноԛрсѕтухԝԁ", "abehijkmhoqpcstyxwd", strict=True))
_GREEK = dict(zip("αβεζηικνορτυχ", "abezhikvoptyx", strict=True))
_OTHERS = {"ı": "i", "ɑ": "a", "ɡ": "g", "օ": "o", "ո": "n", "հ": "h", "ս": "u"}
_LOOKALIKES = str.maketrans(_CYRILLIC | _GREEK | _OTHERS)


def words(text: str) -> list[str]:
    """The words of the beginning of a text, as they look: compatibility forms and letters drawn alike folded, no case,
    no accents, no punctuation, nothing hidden, no special tokens of models.

    What an encoder may drop within a word (marks, formatting, private and unassigned characters, U+FFFD: BERT's
    normaliser drops them all) must not cut that word in two here.
    """
    text = without_spellings(visible(text[:MOST_CHARS]))
    if text.isascii():
        return _WORD.findall(text.casefold())
    # Marks go twice: normalising puts those of a letter in order, and for thousands that takes as long as a model does.
    bare = "".join(c for c in text.casefold() if unicodedata.category(c)[0] != "M")
    folded = unicodedata.normalize("NFKD", bare)[: 2 * MOST_CHARS]
    return _WORD.findall("".join(filter(_is_said, folded)).translate(_LOOKALIKES))


def _is_said(character: str) -> bool:
    category = unicodedata.category(character)
    return category == _SEPARATES or not (category[0] in "MC" or character == _REPLACEMENT)


def trigrams(spaced: str) -> NDArray[np.int64]:
    """The character trigrams of a text as numbers, in order; empty for fewer than three characters."""
    codes = np.frombuffer(spaced.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
    if len(codes) < 3:
        return np.zeros(0, dtype=np.int64)
    return codes[:-2] << 42 | codes[1:-1] << 21 | codes[2:]


RUN = 4
"""So many words that hang together as in the prompt are taken for the prompt's own."""
_PROMPT_STEP, _TEXT_STEP = 2, 3
"""Two words hang together where they come in one order in both, so close: one may be left out, two put in between."""
_SHORT_PROMPT = 48
"""Distinct words up to which each of the prompt's words is its own wherever it stands: filler between them, more than
two words together can hide, hides nothing then. What is said about a longer text has most of its words."""


# English words of grammar alone: articles, pronouns, prepositions, conjunctions, auxiliaries and the words that ask,
# with the pieces that apostrophes leave. What a text is about is in the others.
FUNCTION_WORDS = frozenset(
    words("""a an the and or but if of to in on at by for from with as into over under between through during before
    after about is are was were be been being do does did done how what why when where which who whom whose this that
    these those it its they them their there than then so such not no nor can could will would should may might must
    have has had i you he she him her his we us our your my me s t d ll re ve m""")
)


def without_echo(asked: Sequence[str], said: Sequence[str]) -> str | None:
    """What is said that does not repeat what was asked, both as words; None when that is all of it.

    Of a short prompt every word goes; none where they are only words of grammar and as many others stay: of a prompt
    that is about anything, those alone are not close to it. Of another one only RUN or more in their order go; words
    put in between, and words left out, do not hide such a repetition.
    """
    if len(own := set(asked)) <= _SHORT_PROMPT:
        kept = [word for word in said if word not in own]
        if 2 * len(kept) >= len(said) and own.intersection(said) <= FUNCTION_WORDS and own - FUNCTION_WORDS:
            return None
    else:
        roots = _runs(asked, said)
        sizes = Counter(roots)
        kept = [word for word, root in zip(said, roots, strict=True) if sizes[root] < RUN]
    return " ".join(kept) if len(kept) < len(said) else None


def _runs(asked: Sequence[str], said: Sequence[str]) -> list[int]:
    """For each word that is said, a number that those share which hang together as they do in what was asked."""
    known = {(word, later) for i, word in enumerate(asked) for later in asked[i + 1 : i + 1 + _PROMPT_STEP]}
    group = list(range(len(said)))
    for i, word in enumerate(said):
        for j in range(i + 1, min(i + 1 + _TEXT_STEP, len(said))):
            if (word, said[j]) in known:
                _join(group, i, j)
    return [_root(group, i) for i in range(len(said))]


def _root(group: list[int], i: int) -> int:
    while group[i] != i:
        group[i] = group[group[i]]
        i = group[i]
    return i


def _join(group: list[int], i: int, j: int) -> None:
    group[_root(group, j)] = _root(group, i)
