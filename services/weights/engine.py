"""The loops of the service: watching the chain, setting weights, trimming; each lets none of the others down."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import structlog

from coremesh.errors import ChainUnavailable, HistoryUnavailable, LeaseLost
from coremesh.events import decode_scored
from coremesh.folding import FoldRunner, Follower
from coremesh.history import Checkpoint, History, Lease
from coremesh.settings import ChainSettings, WeightsSettings
from coremesh.types import ORIGIN, new_event_id
from services.weights.book import Book
from services.weights.chain import Chain, Standing, Tick
from services.weights.fold import NAME, ROLE, ScoreFold
from services.weights.hotkeys import Forgetter
from services.weights.ledger import Ledger
from services.weights.metrics import (
    AGE_BLOCKS,
    CHAIN_BLOCK,
    CHAIN_FAILURES,
    EPOCHS_MISSED,
    EVENTS,
    EXCESS,
    HELD_BACK,
    TRIMMED,
)
from services.weights.scores import ScoreState
from services.weights.submitter import Submitter
from services.weights.sync import MetagraphSync

log = structlog.get_logger(__name__)

STALL_S = 60.0
"""A chain without a new block for this long is stuck, or our endpoint is: blocks come every 12 s."""

AWAY_S = 300.0
"""A leader that has not reached the chain for this long lets a standby try, whose own way there may be open."""

STUCK_S = 20.0
"""A fold that has not moved for this long while events wait for it is stuck."""


class FoldStuck(Exception):
    """Events wait, nobody else leads, and the fold does not move: only a new process helps."""


class Engine:
    """What runs behind the API. ``holder`` names this instance among its peers."""

    def __init__(
        self,
        history: History,
        chain: Chain,
        *,
        chain_settings: ChainSettings,
        settings: WeightsSettings,
        holder: str = "",
        stuck_s: float = STUCK_S,
        stall_s: float = STALL_S,
        away_s: float = AWAY_S,
    ) -> None:
        self.history = history
        self.chain = chain
        self.holder = holder or f"weights-{new_event_id()}"
        self._settings = settings
        self._stuck_s = stuck_s
        self._stall_s = stall_s
        self._away_s = away_s
        self._reached: tuple[Lease | None, float] = (None, time.monotonic())
        """By which lease we led when the chain last answered, or since when we lead by it."""
        self.book = Book(settings)
        fold = ScoreFold(self.book.rule)
        if not fold.has_pages:
            log.warning("folding without the compiled kernel: scores are the same, catching up takes longer")
        self.runner: FoldRunner[ScoreState] = FoldRunner(
            history,
            fold,
            name=NAME,
            role=ROLE,
            holder=self.holder,
            on_state=self._on_state,
            ttl=timedelta(seconds=settings.lease_s),
            decode=decode_scored,
            apply_page=fold.apply_page if fold.has_pages else None,
        )
        self.follower: Follower[ScoreState] = Follower(history, fold, name=NAME, on_state=self._on_checkpoint)
        self.sync = MetagraphSync(history, chain, chain_settings)
        self.ledger = Ledger(history)
        self._forgetter = Forgetter(history)
        self.submitter = Submitter(self.ledger, chain, self.book, settings)
        self.tick: Tick | None = None
        self._moved_s = time.monotonic()
        self._rebuilt_s = 0.0
        self._problem: str | None = "the chain has not been reached yet"
        self._standing: Standing | None = None
        self._ready: Lease | None = None
        self._never_ran: list[str] = []

    async def fold(self) -> None:
        """Fold while leading. Ends when cancelled."""
        await self.runner.run()

    async def follow(self) -> None:
        """Show the newest checkpoint and snapshot while another leads. Ends when cancelled."""
        while True:
            if self.runner.lease is None:
                try:
                    await self.follower.look()
                    await self.sync.look()
                except HistoryUnavailable as error:
                    log.warning("history away", reason=error.message)
            await asyncio.sleep(0.5)

    async def watch(self) -> None:
        """Look at the chain, and publish the metagraph while leading. Ends when cancelled."""
        led: Lease | None = None
        while True:
            try:
                await self._look()
                lease = self.runner.lease
                if lease is not None and self.tick is not None:
                    if lease is not led:
                        self.sync.take_over()
                        led = lease
                    await self.sync.step(lease, self.tick, announced=self.book.page.state.announced > 0)
            except ChainUnavailable as error:
                CHAIN_FAILURES.inc()
                self._problem = error.message
                log.warning("chain away", reason=error.message)
                self._let_others_try()
            except (HistoryUnavailable, LeaseLost) as error:
                log.warning("metagraph not published", reason=error.message)
                led = None
            await asyncio.sleep(self._settings.interval_s)

    def _let_others_try(self) -> None:
        """The chain did not answer: give the lease back when it has not for long."""
        lease, now = self.runner.lease, time.monotonic()
        if lease is not self._reached[0]:
            self._reached = (lease, now)
        elif lease is not None and now - self._reached[1] > self._away_s:
            log.error("the chain has been away for too long; another may lead", seconds=round(self._away_s))
            self._reached = (lease, now)
            self.runner.stand_aside()

    async def _look(self) -> None:
        tick = await self.chain.tick()
        self._reached = (self.runner.lease, time.monotonic())
        CHAIN_BLOCK.set(tick.block)
        if self.tick is None or tick.block != self.tick.block:
            self._moved_s = time.monotonic()
            self._count_missed(tick)
            self._show_age(tick)
            self.tick = tick
        self._problem = None
        now = time.monotonic()
        if now - self._moved_s > self._stall_s:
            self._problem = f"the chain has been at block {tick.block} for {now - self._moved_s:.0f} s"
            if now - max(self._moved_s, self._rebuilt_s) > self._stall_s:
                self._rebuilt_s = now
                CHAIN_FAILURES.inc()
                await self.chain.rebuild()

    def _show_age(self, tick: Tick) -> None:
        metagraph = self.sync.newest
        uid = metagraph.uid_of(metagraph.hotkey) if metagraph else None
        if uid is not None and uid < len(tick.last_update):
            AGE_BLOCKS.set(tick.block - tick.last_update[uid])

    def _count_missed(self, tick: Tick) -> None:
        old, metagraph = self.tick, self.sync.newest
        if old is None or metagraph is None or tick.epoch_start <= old.epoch_start or not self.runner.lease:
            return
        uid = metagraph.uid_of(metagraph.hotkey)
        if uid is not None and uid < len(tick.last_update) and tick.last_update[uid] < old.epoch_start:
            EPOCHS_MISSED.inc()
            log.error("an epoch ended without weights of ours", epoch_start=old.epoch_start)

    async def submit(self) -> None:
        """Set weights while leading. Ends when cancelled."""
        seen = -1
        led: Lease | None = None
        while True:
            lease, tick, metagraph = self.runner.lease, self.tick, self.sync.newest
            if lease is None and led is not None:
                self.submitter.stand_down()
                led = None
            ready = self._ready is lease and self.book.page.state.announced > 0
            if (
                lease is not None
                and ready
                and tick
                and metagraph
                and (tick.block != seen or lease is not led)
            ):
                try:
                    if lease is not led:
                        await self.submitter.take_over()
                        led = lease
                    await self.submitter.step(
                        lease, tick, metagraph, lambda lease=lease: self.runner.holds(lease)
                    )
                    seen = tick.block
                except ChainUnavailable as error:
                    CHAIN_FAILURES.inc()
                    log.warning("weights wait for the chain", reason=error.message)
                except (HistoryUnavailable, LeaseLost) as error:
                    log.warning("weights wait for the history", reason=error.message)
            await asyncio.sleep(self._settings.interval_s)

    async def trim(self) -> None:
        """Keep the history within its bound while leading. Ends when cancelled."""
        while True:
            await asyncio.sleep(self._settings.trim_s)
            if self.runner.lease is None:
                self._show_trimmed(0, [])
                continue
            try:
                dropped = await self.history.trim(self._settings.keep_events, self._settings.trim_folds)
                TRIMMED.inc(dropped)
                await self._forgetter.step(self.book.page.state, self.sync.newest)
                excess = max(0, await self.history.length() - self._settings.keep_events)
                folds = self._settings.trim_folds if excess else ()
                never = [fold for fold in folds if not await self.history.version(fold)]
                self._show_trimmed(excess, never)
            except HistoryUnavailable as error:
                log.warning("history not trimmed", reason=error.message)

    def _show_trimmed(self, excess: int, never: list[str]) -> None:
        EXCESS.set(excess)
        for fold in self._settings.trim_folds:
            HELD_BACK.labels(fold).set(fold in never)
        if never and never != self._never_ran:
            log.error("trimming is held back for folds that never ran", folds=never, events=excess)
        self._never_ran = never

    async def trim_problem(self) -> str | None:
        """Why events pile up though nothing is broken, or None."""
        if not self._never_ran:
            return None
        folds = " and ".join(self._never_ran)
        return (
            f"events are kept for {folds}, which never ran: start what folds it, "
            "or leave it out of COREMESH_WEIGHTS_TRIM_FOLDS"
        )

    async def guard(self) -> None:
        """Watch the fold's progress. Raises FoldStuck; ends only so, or when cancelled.

        The lease and the fold wait on the same store, so a call that never returns there would leave this instance
        leading in name only.
        """
        version, since_s = -1, time.monotonic()
        while True:
            await asyncio.sleep(min(2.0, self._stuck_s / 4))
            try:
                checkpoint = await self.history.load(NAME)
                waiting = await self.history.last_id() != (checkpoint.last_id if checkpoint else ORIGIN)
                elsewhere = await self.history.leader(ROLE) not in (None, self.holder)
            except HistoryUnavailable:
                since_s = time.monotonic()
                continue
            now = checkpoint.version if checkpoint else 0
            if now != version or elsewhere or not waiting:
                version, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > self._stuck_s:
                raise FoldStuck(f"the fold has not moved for {self._stuck_s:g} s though events wait for it")

    async def standing(self) -> Standing | None:
        """What the chain held of us when it last answered, at most a block old while it does."""
        known, tick = self._standing, self.tick
        if known is None or tick is None or known.block < tick.block:
            try:
                self._standing = await self.chain.standing()
            except ChainUnavailable as error:
                log.warning("chain away", reason=error.message)
        return self._standing

    async def history_problem(self) -> str | None:
        """None when the history answers. Raises HistoryUnavailable."""
        await self.history.ping()
        return None

    async def chain_problem(self) -> str | None:
        """What is wrong with the chain, or None."""
        return self._problem

    async def metagraph_problem(self) -> str | None:
        """What is wrong with the metagraph, or None."""
        return None if self.sync.newest is not None else "no metagraph has been published yet"

    async def _on_state(self, state: ScoreState, checkpoint: Checkpoint, lease: Lease) -> None:
        await self._on_checkpoint(state, checkpoint)
        self._ready = lease

    async def _on_checkpoint(self, state: ScoreState, checkpoint: Checkpoint) -> None:
        self.book.turn(checkpoint)
        EVENTS.set(state.events)
