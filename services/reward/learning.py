"""Keeping what a stack learns: one replica leads the fold, every replica serves its newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from coremesh.folding import FoldRunner, Follower
from coremesh.history.protocol import Checkpoint, History
from coremesh.service.metrics import FOLD_GAPS, FOLD_LEADING, FOLD_VERSION
from services.reward.fold import StatisticsFold
from services.reward.stack import Stack
from services.reward.statistics import Statistics

SAVE_EVERY = timedelta(seconds=1)


class Learning:
    """The two loops. Leader and followers alike serve from the checkpoint, so that they say the same version."""

    def __init__(
        self,
        history: History,
        stack: Stack,
        serve: Callable[[Statistics], None],
        *,
        name: str,
        role: str,
        holder: str,
    ) -> None:
        self._serve_it = serve
        self._name = name
        rules = {key: weighted.rule for key, weighted in stack.functions.items()}
        fold = StatisticsFold(stack.version, rules, stack.learnt)
        self._runner = FoldRunner(history, fold, name=name, role=role, holder=holder, save_every=SAVE_EVERY)
        self._follower = Follower(history, fold, name=name, on_state=self._serve)

    async def lead(self) -> None:
        """Fold while we hold the lease; for ever."""
        await self._runner.run()

    async def follow(self) -> None:
        """Serve the newest checkpoint; for ever."""
        await self._follower.run()

    async def _serve(self, state: Statistics, checkpoint: Checkpoint) -> None:
        self._serve_it(state)
        status = self._runner.status
        FOLD_VERSION.labels(self._name).set(checkpoint.version)
        FOLD_LEADING.labels(self._name).set(status.leading)
        FOLD_GAPS.labels(self._name).set(status.gaps)
