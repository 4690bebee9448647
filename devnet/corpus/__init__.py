"""What the devnet's miners can know: a few hundred facts on the roster's topics, written for this project."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from devnet.roster import TOPICS


@dataclass(frozen=True, slots=True)
class Fact:
    """One question with its answer of two to four sentences.

    ``training`` are the phrasings that may be asked in training. They are empty when the fact is ``held_out``: then
    nothing of it is in any training prompt, and it serves to measure what was learnt about the miners.
    """

    id: str
    topic: str
    question: str
    answer: str
    training: tuple[str, ...]
    held_out: bool


@cache
def load_facts() -> tuple[Fact, ...]:
    """All facts, by topic in the roster's order."""
    facts: list[Fact] = []
    for topic in TOPICS:
        text = files(__name__).joinpath(f"{topic}.jsonl").read_text(encoding="utf-8")
        for line in text.splitlines():
            row = json.loads(line)
            facts.append(Fact(**{**row, "training": tuple(row["training"])}))
    return tuple(facts)
