"""Safety: texts that a classifier calls unsafe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.reward.batch import Batch, Floats
from services.reward.work import Op, Runner


class Safety:
    """A text is unsafe when the classifier's probability reaches the threshold in any window of it."""

    def __init__(self, op: Op[str, float], *, threshold: float) -> None:
        self._op = op
        self._threshold = threshold

    async def judge(self, texts: Sequence[str], runner: Runner) -> tuple[list[bool], list[float]]:
        """Whether each is safe, and its probability of not being."""
        scores = await runner.run(self._op, texts)
        return [score < self._threshold for score in scores], scores

    async def values(self, batch: Batch) -> Floats:
        """1 for safe completions, else 0."""
        safe, _ = await self.judge(batch.completions, batch.runner)
        return np.array(safe, dtype=np.float64)
