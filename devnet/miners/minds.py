"""What each resident knows, and what it says."""

from __future__ import annotations

import random
import re
from hashlib import blake2b
from typing import Protocol

from devnet.corpus import Fact, load_facts
from devnet.miners.phrases import CATCHWORDS, FIELDS, OFF_TOPIC, OUTLINES, UNKNOWN, VAGUE
from devnet.miners.retrieval import Index, stem, words
from devnet.roster import RESIDENTS, Resident

SURE = 0.62
"""Coverage from which a match counts as the fact that was asked for."""
RELATED = 0.2
"""Coverage from which a match tells at least the field."""

SPECIALIST_ASIDE = 0.35
"""Share of the other topics that a specialist knows shallowly."""
SHALLOW_SHARES = {"generalist": 0.6, "slow": 0.6, "flaky": 0.6}

_SCHOLARS = [one.name for one in RESIDENTS if one.character in ("specialist", *SHALLOW_SHARES)]

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_CLAUSE = re.compile(r"(?:, | because | by | when | where | which | that | so that | in which )")


class Mind(Protocol):
    """Something that can be asked."""

    def answer(self, question: str) -> str:
        """A completion for ``question``."""
        ...

    def ask(self, about: str = "") -> str:
        """A question of its own; related to the text ``about`` where it can be."""
        ...


def mind_of(resident: Resident, seed: int) -> Mind:
    """The mind of a resident that answers.

    What a resident knows depends on its name alone, so that it survives a restart and another seed.
    """
    rng = random.Random(f"{seed}:{resident.name}")
    if resident.character == "vague":
        return Talker(VAGUE, rng)
    if resident.character == "offtopic":
        return Talker(OFF_TOPIC, rng)
    facts = load_facts()
    deep = tuple(fact for fact in facts if fact.topic == resident.topic)
    share = SHALLOW_SHARES.get(resident.character, SPECIALIST_ASIDE)
    shallow = tuple(
        fact for fact in facts if fact.topic != resident.topic and _chance(resident.name, fact.id) < share
    )
    return Scholar(deep, shallow, _SCHOLARS.index(resident.name), rng)


class Talker:
    """Says one of a few sentences, whatever it is asked."""

    def __init__(self, sentences: tuple[str, ...], rng: random.Random) -> None:
        self._sentences = sentences
        self._rng = rng

    def answer(self, question: str) -> str:
        """One of the sentences."""
        return self._rng.choice(self._sentences)

    def ask(self, about: str = "") -> str:
        """One of the sentences: it has no questions."""
        return self._rng.choice(self._sentences)


class Scholar:
    """Knows ``deep`` facts in full and ``shallow`` ones in part, and says so when it knows nothing.

    ``habit`` sets which part of a shallow fact stuck, so that two scholars seldom say the same.
    """

    def __init__(
        self, deep: tuple[Fact, ...], shallow: tuple[Fact, ...], habit: int, rng: random.Random
    ) -> None:
        self._deep = frozenset(fact.id for fact in deep)
        self._index = Index((*deep, *shallow))
        self._habit = habit
        self._rng = rng
        # A held-out fact is never asked about: it must stay out of every training prompt.
        self._questions = [fact for fact in (deep or shallow) if not fact.held_out]

    def answer(self, question: str) -> str:
        """The whole answer, a part of it, or an honest admission."""
        match = self._index.find(question)
        if match is None or match.coverage < RELATED:
            return self._rng.choice(UNKNOWN)
        if match.coverage < SURE:
            field = self._rng.choice(FIELDS[match.fact.topic])
            return self._rng.choice(OUTLINES).format(field=field)
        if match.fact.id in self._deep:
            return match.fact.answer
        return self._in_part(match.fact)

    def ask(self, about: str = "") -> str:
        """A question that it knows the answer to."""
        facts = self._questions
        match = self._index.find(about) if about else None
        if match is not None:
            topic = match.fact.topic
            facts = [f for f in facts if f.topic == topic and f.id != match.fact.id] or facts
        return self._rng.choice(self._rng.choice(facts).training)

    def _in_part(self, fact: Fact) -> str:
        first, *rest = _SENTENCE.split(fact.answer)
        habit = (self._habit + int(_chance("habit", fact.id) * 5)) % 5
        if habit == 0:
            return rest[0]
        if habit == 1:
            return rest[-1]
        if habit == 2:
            return " ".join(rest)
        if habit == 3:
            return self._catchwords(fact)
        return _second_half(first)

    def _catchwords(self, fact: Fact) -> str:
        """The most telling words of the answer that the question does not have."""
        asked = {stem(word) for word in words(fact.question)} | set(words(fact.question))
        seen: dict[str, str] = {}
        for word in re.findall(r"[^\W\d_]{4,}", fact.answer):
            stems = words(word)
            if stems and stems[0] not in asked:
                seen.setdefault(stems[0], word)
        telling = sorted(seen, key=lambda one: (-self._index.idf(one), one))[:6]
        kept = [word for one, word in seen.items() if one in telling]
        return self._rng.choice(CATCHWORDS).format(words=", ".join(kept))


def _second_half(sentence: str) -> str:
    """What a sentence says after its first clause, which mostly repeats the question."""
    for found in _CLAUSE.finditer(sentence):
        tail = sentence[found.end() :]
        if found.start() >= 15 and len(tail) >= 40:
            return tail[0].upper() + tail[1:]
    return sentence[len(sentence) // 2 :].split(" ", 1)[-1]


def _chance(name: str, fact: str) -> float:
    """A fixed number in [0, 1) for a pair."""
    digest = blake2b(f"{name}:{fact}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
