"""Safety: texts that a classifier calls unsafe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from services.reward.batch import Batch, Floats
from services.reward.work import Op, Runner


class Reads(Protocol):
    """A classifier as two ops."""

    @property
    def windows(self) -> Op[str, list[list[int]]]:
        """A text to at least one window of tokens, all of it read."""
        ...

    @property
    def unsafe(self) -> Op[list[int], float]:
        """A window to its probability of being unsafe."""
        ...


class Safety:
    """A text is unsafe when the classifier's probability reaches the threshold in any window of it."""

    def __init__(self, model: Reads, *, threshold: float) -> None:
        self._model = model
        self._threshold = threshold

    async def judge(self, texts: Sequence[str], runner: Runner) -> tuple[list[bool], list[float]]:
        """Whether each is safe, and its probability of not being: that of its worst window."""
        windows = await runner.run(self._model.windows, texts)
        found = iter(await runner.run(self._model.unsafe, [one for each in windows for one in each]))
        scores = [max(next(found) for _ in each) for each in windows]
        return [score < self._threshold for score in scores], scores

    async def values(self, batch: Batch) -> Floats:
        """1 for safe completions, else 0."""
        safe, _ = await self.judge(batch.completions, batch.runner)
        return np.array(safe, dtype=np.float64)
