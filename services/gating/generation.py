"""Generations of the head: one rule on one encoder's embeddings. A new one grows up beside the old, then takes over.

The serving generation is the checkpoint ``gating:head``. A process that finds another generation there folds its own
as ``gating:head:next``, from the start of the history, and serves it once it has caught up; until then it is not
ready, and the processes of the old generation go on serving theirs. The one that has caught up becomes the serving
generation in a single save, fenced by the lease of the role ``gating``, as soon as no process of the old one holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import Enum
from typing import Any

import msgspec
import structlog

from coremesh.aside import end_tasks
from coremesh.errors import HistoryUnavailable
from coremesh.folding import Fold, FoldRunner, FoldStatus, loaded
from coremesh.history.protocol import Checkpoint, History, Lease
from coremesh.types import ORIGIN
from services.gating.fold import GatingFold

FOLD = "gating:head"
NEXT = "gating:head:next"
ROLE = "gating"
NEXT_ROLE = "gating:next"
REACH = 64
"""A generation that lacks at most so many events has caught up: some always arrive while others are folded."""

log = structlog.get_logger(__name__)


class Place(Enum):
    """Where a process's generation stands."""

    SERVING = "serving"
    """It is the serving one, or there is none yet."""
    BESIDE = "beside"
    """Another one serves; this one is to take over."""
    SUPERSEDED = "superseded"
    """It served, and another one has taken over: what is known is served on, and nothing more is folded."""


class Generations:
    """Folds and follows one process's generation. ``run`` goes on for ever; ``look`` is one round of following.

    ``on_state`` is awaited with every newer head of this generation that is fit to be served.
    """

    def __init__(
        self,
        history: History,
        fold: Fold[GatingFold],
        *,
        holder: str,
        on_state: Callable[[GatingFold, Checkpoint], Awaitable[None]],
        every: timedelta = timedelta(milliseconds=500),
        save_every: timedelta = timedelta(seconds=1),
        batch: int = 256,
        ttl: timedelta = timedelta(seconds=6),
    ) -> None:
        self._history = history
        self._fold = fold
        self._on_state = on_state
        self._every = every.total_seconds()
        self._versions: dict[str, int] = {}
        self._served = False
        self._lacking: str | None = "the newest head was not read yet"
        self.place = Place.SERVING
        self._runner = _HeadRunner(
            history,
            fold,
            name=FOLD,
            role=ROLE,
            holder=holder,
            batch=batch,
            ttl=ttl,
            save_every=save_every,
            may_take_over=lambda: self.place is Place.BESIDE and self.lacking is None,
        )
        self._beside = FoldRunner(
            history,
            fold,
            name=NEXT,
            role=NEXT_ROLE,
            holder=holder,
            batch=batch,
            ttl=ttl,
            save_every=save_every,
        )

    @property
    def status(self) -> FoldStatus:
        """Of the fold of the serving generation, in this process."""
        return self._runner.status

    @property
    def status_beside(self) -> FoldStatus | None:
        """Of the fold of a generation that is to take over; None where this process's is not to."""
        return self._beside.status if self.place is Place.BESIDE else None

    @property
    def lacking(self) -> str | None:
        """Why nothing can be served yet, in a sentence; None once it can."""
        return self._lacking

    async def run(self) -> None:
        """Follow, and fold what is this process's to fold. Redis being away only makes it wait."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                try:
                    await self.look()
                except HistoryUnavailable as error:
                    log.warning("history away", fold=FOLD, reason=error.message)
                await self._turn(tasks)
                await asyncio.sleep(self._every)
        finally:
            await end_tasks(tasks.values())

    async def _turn(self, tasks: dict[str, asyncio.Task[None]]) -> None:
        """Have the right runners run. One that died ends this process's loop."""
        if FOLD not in self._versions:
            return  # nothing is folded before it is known which generation serves
        ready = self.lacking is None
        wanted = {
            FOLD: self.place is Place.SERVING or (self.place is Place.BESIDE and ready),
            NEXT: self.place is Place.BESIDE,
        }
        for name, runner in ((FOLD, self._runner), (NEXT, self._beside)):
            running = tasks.get(name)
            if running is not None and running.done():
                running.result()
            if wanted[name] and running is None:
                tasks[name] = asyncio.create_task(runner.run(), name=name)
            elif not wanted[name] and running is not None:
                await end_tasks((tasks.pop(name),))

    async def look(self) -> None:
        """Take the newest head of this generation if it is new to us. Raises HistoryUnavailable."""
        version = await self._history.version(FOLD)
        if version != self._versions.get(FOLD):
            checkpoint = await self._history.load(FOLD)
            own = checkpoint is None or checkpoint.format == self._fold.format
            self._settle(own, checkpoint)
            if own and checkpoint is not None:
                await self._serve(checkpoint)
            self._versions[FOLD] = version
        if self.place is Place.BESIDE:
            await self._look_beside()

    def _settle(self, own: bool, checkpoint: Checkpoint | None) -> None:
        if own:
            place, self._lacking = Place.SERVING, None
        elif self.place is Place.BESIDE or not self._served:
            place = Place.BESIDE
            if self.place is not Place.BESIDE:
                self._lacking = "the head of another encoder or rule serves, and ours has not caught up yet"
        else:
            place = Place.SUPERSEDED
        if place is not self.place and checkpoint is not None:
            log.warning("generation", now=place.value, serving=checkpoint.format, ours=self._fold.format)
        self.place = place
        self._served = self._served or (own and checkpoint is not None)

    async def _look_beside(self) -> None:
        version = await self._history.version(NEXT)
        if version == self._versions.get(NEXT):
            return
        checkpoint = await self._history.load(NEXT)
        if checkpoint is not None and checkpoint.format != self._fold.format:
            checkpoint = None
        if self.lacking is None or await _caught_up(self._history, checkpoint):
            if checkpoint is not None:
                await self._serve(checkpoint)
            self._lacking = None
        self._versions[NEXT] = version

    async def _serve(self, checkpoint: Checkpoint) -> None:
        state = await loaded(self._fold, FOLD, checkpoint)
        if state is not None:
            await self._on_state(state, checkpoint)


class _HeadRunner(FoldRunner[GatingFold]):
    """Leads ``gating:head`` only where it is of this process's generation, or makes it so when that has caught up."""

    def __init__(
        self, history: History, fold: Fold[GatingFold], *, may_take_over: Callable[[], bool], **how: Any
    ) -> None:
        super().__init__(history, fold, **how)
        self._may_take_over = may_take_over

    async def _fold_on(self, lease: Lease) -> None:
        # Nobody else saves the head while the lease is ours, so what is found here holds.
        if await self._ours(lease):
            await super()._fold_on(lease)
        else:
            await self._history.release(lease)
            await asyncio.sleep(self._ttl.total_seconds() / 4)

    async def _ours(self, lease: Lease) -> bool:
        head = await self._history.load(FOLD)
        if head is None or head.format == self._fold.format:
            return True
        grown = await self._history.load(NEXT)
        if grown is not None and grown.format != self._fold.format:
            grown = None
        if not self._may_take_over() or not await _caught_up(self._history, grown):
            return False
        if grown is not None:
            await self._history.save(FOLD, msgspec.structs.replace(grown, version=0), lease, head.last_id)
            log.info("took over", fold=FOLD, had=head.format, has=grown.format, last_id=grown.last_id)
        return True


async def _caught_up(history: History, checkpoint: Checkpoint | None) -> bool:
    """Whether a generation's checkpoint is near the end of the history; without one only if that is empty."""
    if checkpoint is None:
        return not await history.read(ORIGIN, 1)
    return len(await history.read(checkpoint.last_id, REACH + 1)) <= REACH
