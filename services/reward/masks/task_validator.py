"""Task validator: a question where a question was asked for, an answer where an answer was."""

from __future__ import annotations

import re

import numpy as np

from services.reward.batch import Batch, Floats
from services.reward.engine.text import visible
from services.reward.work import TextOp

MOST_CHARS = 20_000

# A line that opens a section of a task: what a miner writes who answers a template instead of the question. What stands
# before the word does not reach over lines: each blank line would be gone through once for every one before it.
_SECTION = re.compile(
    r"^(?:[^\S\n]|[#>*_\-])*(question|answer|summary|follow[- ]?up)\b[\s*_]*:", re.IGNORECASE | re.MULTILINE
)
_ASKS = re.compile(r"[?？؟]")


class TaskValidator:
    """``miss`` where a completion is not what its kind asks for, else 1.

    A ``question`` must ask something and must not bring an answer or a summary along; an ``answer`` must not
    contain sections called question, summary or follow-up, nor be nothing but one question. Users' own prompts
    (``inference``, ``forward``) may ask for anything.
    """

    def __init__(self, *, miss: float = 0.0) -> None:
        self._miss = miss
        self._op = TextOp("task_validator", self._judge, lambda item: len(item[1]))

    async def values(self, batch: Batch) -> Floats:
        """See Mask."""
        return np.array(await batch.runner.run(self._op, [(batch.kind, c) for c in batch.completions]))

    def _judge(self, item: tuple[str, str]) -> float:
        kind, completion = item
        text = visible(completion[:MOST_CHARS]).strip()
        sections = {match.group(1).lower() for match in _SECTION.finditer(text)}
        if kind == "question":
            wrong = not _ASKS.search(text) or bool(sections & {"answer", "summary"})
        elif kind == "answer":
            wrong = bool(sections - {"answer"}) or _only_asks(text)
        else:
            wrong = False
        return self._miss if wrong else 1.0


def _only_asks(text: str) -> bool:
    sentences = [part for part in re.split(r"(?<=[.!?？؟])\s+", text) if part]
    return len(sentences) == 1 and sentences[0].rstrip("\"'”’)]*_ ").endswith(("?", "？", "؟"))
