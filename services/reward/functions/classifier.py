"""Reward models: a score for prompt and completion read together."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from services.reward.batch import Batch, Floats
from services.reward.work import Op


class Judges(Protocol):
    """A model as ops over (conversation, completion)."""

    @property
    def plain(self) -> Op[tuple[Batch, int], float]:
        """Score of the i-th completion of a batch after its prompt."""
        ...

    @property
    def difference(self) -> Op[tuple[Batch, int], float]:
        """``relu(r(prompt + completion) + shift) - relu(r(completion) + shift)`` (REFERENCE.md)."""
        ...


class SequenceClassifier:
    """A sequence classifier or a value head; in difference mode by configuration, or when the caller asks.

    Values asked for in difference mode are on another scale than the configured ones, and so have a key and
    statistics of their own.
    """

    def __init__(self, name: str, model: Judges, *, difference: bool = False) -> None:
        self._name = name
        self._model = model
        self._difference = difference

    def key(self, batch: Batch) -> str:
        """The name, or ``<name>.difference``."""
        return self._name if self._difference or not batch.difference else f"{self._name}.difference"

    async def raw(self, batch: Batch) -> Floats:
        """See Function."""
        op = self._model.difference if self._difference or batch.difference else self._model.plain
        values = await batch.runner.run(op, [(batch, i) for i in range(len(batch))])
        return np.array(values, dtype=np.float64)
