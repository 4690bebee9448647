"""DPO: what a model was taught to like, without a reward model."""

from __future__ import annotations

import numpy as np

from services.reward.batch import Batch, Floats
from services.reward.work import Op


class Dpo:
    """The mean log-probability of a completion's tokens under the policy minus that under its reference.

    The implicit reward of direct preference optimisation (Rafailov et al. 2023) without its factor beta, a token.
    A completion without tokens has none, and counts as the worst of its batch.
    """

    def __init__(self, name: str, op: Op[tuple[Batch, int], float]) -> None:
        self._name = name
        self._op = op

    def key(self, batch: Batch) -> str:
        """Always the same scale."""
        return self._name

    async def raw(self, batch: Batch) -> Floats:
        """See Function."""
        values = await batch.runner.run(self._op, [(batch, i) for i in range(len(batch))])
        return np.array(values, dtype=np.float64)
