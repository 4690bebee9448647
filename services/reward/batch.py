"""One prompt and its completions, on their way through the stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from services.reward.work import Op, Runner

Floats = NDArray[np.float64]
Kind = Literal["question", "answer", "inference", "forward"]

SHORT_QUESTION_WORDS = 6
"""A last message of fewer words ("And why?") means nothing without what was said before it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the prompt."""

    role: str
    content: str


class Embeds(Protocol):
    """An encoder as an op: texts to unit vectors float32 [dim]."""

    @property
    def op(self) -> Op[str, NDArray[np.float32]]:
        """The op."""
        ...

    @property
    def identity(self) -> str:
        """Hash of the encoder's files."""
        ...

    def read(self, texts: Sequence[str]) -> list[str]:
        """What the encoder reads of each text. Takes time: for the compute thread."""
        ...


@dataclass
class Batch:
    """What the parts of a stack see. ``embedded`` computes vectors once, however many parts want them."""

    turns: tuple[Turn, ...]
    completions: tuple[str, ...]
    kind: Kind
    runner: Runner
    difference: bool = False
    _embedded: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def prompt(self) -> str:
        """What was asked: the last user message, with what came before it when it is too short to stand alone.

        System messages are the operator's words, the same for everybody: they only pull all vectors together.
        """
        spoken = [turn for turn in self.turns if turn.role != "system"] or list(self.turns)
        asked = [i for i, turn in enumerate(spoken) if turn.role == "user"]
        last = asked[-1] if asked else len(spoken) - 1
        text = spoken[last].content
        if len(text.split()) >= SHORT_QUESTION_WORDS or last == 0:
            return text
        # The newest words first: an encoder reads only the beginning of a long text.
        return "\n".join([text, *(turn.content for turn in reversed(spoken[:last]))])

    async def embedded(self, encoder: Embeds) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The prompt's unit vector [dim] and the completions' [n, dim]."""
        prompt, completions, _ = await self.embedded_with(encoder, ())
        return prompt, completions

    async def embedded_with(
        self, encoder: Embeds, others: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], list[NDArray[np.float32]]]:
        """The same, and the vectors of other texts, computed together: a call for a few words alone takes half as
        long as one for a whole batch."""
        known = self._embedded.get(encoder.identity)
        own = () if known else (self.prompt, *self.completions)
        rows = await self.runner.run(encoder.op, [*own, *others]) if own or others else []
        if known is None:
            known = rows[0], np.stack(rows[: len(own)])[1:]
            self._embedded[encoder.identity] = known
        prompt, completions = known
        return prompt, completions, rows[len(own) :]


class Function(Protocol):
    """A reward function: one raw value a completion."""

    def key(self, batch: Batch) -> str:
        """Names the raw values: the function's name, or another when they are on another scale."""
        ...

    async def raw(self, batch: Batch) -> Floats:
        """Values [n], any finite or not (the stack makes them finite)."""
        ...


class Mask(Protocol):
    """Something that can only lower a reward."""

    async def values(self, batch: Batch) -> Floats:
        """Factors [n] in [0, 1]."""
        ...


def texts_of(turns: Sequence[Turn]) -> list[str]:
    """The contents that are not the system's; all of them when there is nothing else."""
    return [t.content for t in turns if t.role != "system"] or [t.content for t in turns]
