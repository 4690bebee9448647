"""What a validator wants: an answer, a question of the miner's own, a follow-up question, or a summary."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")
_WANTS_QUESTION = re.compile(
    r"\b(?:ask|pose|write|formulate|generate|give|think of|come up with|invent|propose|suggest|create|produce)\b"
    r"[^?]{0,120}\bquestions?\b",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(
    r"\bfollow(?:s|ing|ed)?[- ]?(?:up|on)\b|\b(?:preceding|above|previous)\b", re.IGNORECASE
)
_WANTS_SUMMARY = re.compile(r"\bsummar(?:y|i[sz]e)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer ``question``."""

    question: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask something; about the text ``about`` when it is not empty."""

    about: str


@dataclass(frozen=True, slots=True)
class Summarise:
    """Shorten ``text``."""

    text: str


def task_of(roles: list[str], messages: list[str]) -> Answer | Ask | Summarise:
    """The task set by the last user message; a request in the form of a question is always to be answered."""
    users = [place for place, role in enumerate(roles) if role == "user"]
    last = users[-1] if users else len(messages) - 1
    request = messages[last]
    earlier = [text for place, text in enumerate(messages[:last]) if roles[place] != "system"]
    sentences = [one for one in _SENTENCE.split(request.strip()) if one]
    for place, order in enumerate(sentences):
        if order.endswith("?"):
            continue
        text = " ".join([*earlier, *(sentences[:place] or sentences[place + 1 :])])
        if _WANTS_QUESTION.search(order):
            return Ask(text if _FOLLOWS.search(order) else "")
        if _WANTS_SUMMARY.search(order):
            return Summarise(text)
    return Answer(request)
