"""Finding the fact that a question is about: BM25 over stemmed words, with a measure of how sure it is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from devnet.corpus import Fact

K1 = 1.2
B = 0.5
QUESTION_WEIGHT = 3
"""A word in a fact's own question counts as often as three in its answer."""

_WORD = re.compile(r"[^\W_]+")
_STOP = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "became",
        "been",
        "before",
        "between",
        "but",
        "by",
        "can",
        "come",
        "comes",
        "could",
        "did",
        "do",
        "does",
        "each",
        "for",
        "from",
        "get",
        "give",
        "given",
        "had",
        "has",
        "have",
        "how",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "kind",
        "made",
        "make",
        "makes",
        "many",
        "may",
        "me",
        "more",
        "most",
        "much",
        "my",
        "no",
        "not",
        "of",
        "on",
        "one",
        "or",
        "our",
        "out",
        "people",
        "please",
        "so",
        "some",
        "such",
        "tell",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "up",
        "us",
        "use",
        "used",
        "using",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
        "explain",
        "describe",
        "happen",
        "happens",
        "work",
        "works",
        "mean",
        "means",
        "called",
        "cause",
        "causes",
    ]
)
_ENDINGS = ("ations", "ation", "ings", "ing", "edly", "ies", "ied", "ely", "es", "ed", "ly", "s", "e", "y")


def stem(word: str) -> str:
    """A word without its commonest English endings; crude, and the same for questions and facts."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def words(text: str) -> list[str]:
    """The stems of the words of ``text`` that carry meaning."""
    return [stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP]


@dataclass(frozen=True, slots=True)
class Match:
    """The best fact for a question, and the share in [0, 1] of the question's information found in it."""

    fact: Fact
    coverage: float


class Index:
    """BM25 over ``facts``.

    Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with the idf of Lucene,
    which is never negative.
    """

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._facts = tuple(facts)
        self._postings: dict[str, list[tuple[int, float]]] = {}
        counts: list[Counter[str]] = []
        for fact in self._facts:
            count = Counter(words(fact.answer))
            for phrasing in {fact.question, *fact.training}:
                for word in set(words(phrasing)):
                    count[word] += QUESTION_WEIGHT
            counts.append(count)
        mean = sum(count.total() for count in counts) / max(1, len(counts))
        for place, count in enumerate(counts):
            length = K1 * (1 - B + B * count.total() / mean)
            for word, n in count.items():
                self._postings.setdefault(word, []).append((place, n * (K1 + 1) / (n + length)))

    def idf(self, word: str) -> float:
        """How much a stem tells; most for one that no fact has."""
        n = len(self._postings.get(word, ()))
        return math.log(1 + (len(self._facts) - n + 0.5) / (n + 0.5))

    def find(self, question: str) -> Match | None:
        """The best match, or None when no word of ``question`` is in any fact."""
        asked = set(words(question[:4000]))
        scores: dict[int, float] = {}
        found: dict[int, float] = {}
        total = 0.0
        for word in sorted(asked):
            idf = self.idf(word)
            total += idf
            for place, weight in self._postings.get(word, ()):
                scores[place] = scores.get(place, 0.0) + idf * weight
                found[place] = found.get(place, 0.0) + idf
        if not scores:
            return None
        best = max(scores, key=lambda place: (scores[place], -place))
        return Match(self._facts[best], found[best] / total)
