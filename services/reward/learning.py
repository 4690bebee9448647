"""Keeping what a stack learns: one replica leads the fold, every replica serves its newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from coremesh.folding import FoldRunner, FoldStatus, Follower
from coremesh.history.protocol import Checkpoint, History
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
        self._version = 0
        rules = {key: weighted.rule for key, weighted in stack.functions.items()}
        fold = StatisticsFold(stack.version, rules, stack.learnt)
        self._runner = FoldRunner(history, fold, name=name, role=role, holder=holder, save_every=SAVE_EVERY)
        self._follower = Follower(history, fold, name=name, on_state=self._serve)

    @property
    def status(self) -> FoldStatus:
        """Where the fold stands here, with the version that is served."""
        return replace(self._runner.status, version=self._version)

    async def lead(self) -> None:
        """Fold while we hold the lease; for ever."""
        await self._runner.run()

    async def follow(self) -> None:
        """Serve the newest checkpoint; for ever."""
        await self._follower.run()

    async def _serve(self, state: Statistics, checkpoint: Checkpoint) -> None:
        self._serve_it(state)
        self._version = checkpoint.version
