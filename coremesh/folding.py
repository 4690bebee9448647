"""Running a fold: one leader folds the history into a state, everybody serves the newest checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

import structlog

from coremesh.errors import HistoryUnavailable
from coremesh.events import decode
from coremesh.history.page import Page
from coremesh.history.protocol import Checkpoint, Entry, History, Lease
from coremesh.leading import TTL, Leading
from coremesh.types import ORIGIN, StreamId, stream_key

log = structlog.get_logger(__name__)

S = TypeVar("S")

PAGE = 2048
"""Events of a request: asking for so many costs little beside them, and holds the store up for a few milliseconds."""
SWEEP = 16 * PAGE
"""Events of a sweep over the history: a tenth of a second, between which the fold may be saved."""
SAVE_BEHIND_S = 1.0
"""While a fold catches up it is saved this often: a kill costs at most so much of its work."""


class Fold(Protocol[S]):
    """A pure function of (state, events), and the state's wire form.

    ``apply`` may be given the same entries again after a crash, always with the state from before them. ``load`` and
    ``dump`` run in a thread, never while ``apply`` does.
    """

    format: str
    """Names rule and layout; a checkpoint of another format is not loaded but folded anew from the start."""

    def initial(self) -> S:
        """The state before the first event."""
        ...

    def load(self, state: bytes) -> S:
        """The state in a checkpoint."""
        ...

    def dump(self, state: S) -> bytes:
        """The state for a checkpoint."""
        ...

    async def apply(self, state: S, entries: list[Entry]) -> S:
        """The state after ``entries``. May mutate and give back ``state``; only models may be awaited."""
        ...


@dataclass(frozen=True, slots=True)
class FoldStatus:
    """Where a fold stands."""

    leading: bool
    last_id: StreamId
    version: int
    gaps: int


class FoldRunner(Generic[S]):
    """Leads a fold while it holds the lease, and stands by otherwise.

    State and place are saved in one step with the lease's fencing token, so a kill at any instant leaves the last
    checkpoint, and folding goes on from there. A checkpoint of another format, or a damaged one, is not used: the fold
    begins again at the oldest event. ``on_state(state, checkpoint, lease)`` is awaited after every save
    and after taking over, on the leader only. ``decode`` makes of an event's wire form what the fold reads.
    ``apply_page`` is ``apply`` for a page of packed events: with it the fold catches up by pages where the history has
    them, and both must give the same state.
    """

    def __init__(
        self,
        history: History,
        fold: Fold[S],
        *,
        name: str,
        role: str,
        holder: str,
        on_state: Callable[[S, Checkpoint, Lease], Awaitable[None]] | None = None,
        batch: int = 1000,
        wait: timedelta = timedelta(milliseconds=500),
        ttl: timedelta = TTL,
        save_every: timedelta = timedelta(0),
        decode: Callable[[bytes], Any] = decode,
        apply_page: Callable[[S, Page], S] | None = None,
    ) -> None:
        self._history = history
        self._fold = fold
        self._name = name
        self._ttl = ttl
        self._leading = Leading(history, role=role, holder=holder, ttl=ttl, fold=name)
        self._on_state = on_state
        self._batch = batch
        self._wait = wait
        self._save_every = save_every.total_seconds()
        self._decode = decode
        self._apply_page = apply_page
        self._at = ORIGIN
        self._version = 0
        self._gaps = 0

    @property
    def status(self) -> FoldStatus:
        """Where the fold stands now."""
        return FoldStatus(self.lease is not None, self._at, self._version, self._gaps)

    @property
    def lease(self) -> Lease | None:
        """What we lead by, None on a standby."""
        return self._leading.lease

    def holds(self, lease: Lease) -> bool:
        """See Leading.holds."""
        return self._leading.holds(lease)

    def stand_aside(self) -> None:
        """See Leading.stand_aside."""
        self._leading.stand_aside()

    async def run(self) -> None:
        """Stand by and lead, for ever. Redis being away only makes it wait. Ends when cancelled."""
        await self._leading.run(self._fold_on)

    async def _fold_on(self, lease: Lease) -> None:
        checkpoint = await self._history.load(self._name)
        saved_at = checkpoint.last_id if checkpoint else ORIGIN
        found = await loaded(self._fold, self._name, checkpoint)
        if found is not None and checkpoint is not None:
            state = found
            self._at = checkpoint.last_id
        else:
            state = self._fold.initial()
            self._at = ORIGIN
            if checkpoint is not None:
                log.warning("folding anew", fold=self._name, had=checkpoint.format, wants=self._fold.format)
        await self._look_for_gap()
        if found is not None and checkpoint is not None:
            self._version = checkpoint.version
            await self._tell(state, checkpoint, lease)
        saved_s = time.monotonic()
        unsaved, behind = False, True
        page = Page(PAGE) if self._apply_page is not None else None
        while True:
            state, count, full = await self._step(state, page if behind else None)
            unsaved = unsaved or count > 0
            behind = full
            save_every = (
                max(self._save_every, SAVE_BEHIND_S) if behind and page is not None else self._save_every
            )
            if not unsaved or time.monotonic() - saved_s < save_every:
                continue
            draft = Checkpoint(
                last_id=self._at,
                state=await asyncio.to_thread(self._fold.dump, state),
                format=self._fold.format,
                time_ms=time.time_ns() // 1_000_000,
            )
            checkpoint = await self._history.save(self._name, draft, lease, saved_at)
            saved_at, unsaved = self._at, False
            saved_s = time.monotonic()
            self._version = checkpoint.version
            await self._tell(state, checkpoint, lease)

    async def _step(self, state: S, page: Page | None) -> tuple[S, int, bool]:
        """Fold what comes next, by a page where there is one: the state, how many events it were, and whether there
        may be more at once."""
        if page is not None and (swept := await self._sweep(state, page)) is not None:
            state, count = swept
            return state, count, count >= SWEEP
        entries = await self._history.read(self._at, self._batch, self._wait, self._decode)
        if entries:
            state = await self._fold.apply(state, entries)
            self._at = entries[-1].stream_id
        return state, len(entries), len(entries) == self._batch

    async def _sweep(self, state: S, page: Page) -> tuple[S, int] | None:
        """Fold pages as they come, in the thread that reads them; None where there are none."""
        apply_page, at = self._apply_page, self._at
        assert apply_page is not None

        def take(page: Page) -> None:
            nonlocal state, at
            state, at = apply_page(state, page), page.last

        # What is cancelled meanwhile leaves the thread with a state that nobody will look at.
        count = await self._history.sweep(at, SWEEP, page, take)
        if count is None:
            return None
        self._at = at
        return state, count

    async def _tell(self, state: S, checkpoint: Checkpoint, lease: Lease) -> None:
        if self._on_state is not None:
            await self._on_state(state, checkpoint, lease)

    async def _look_for_gap(self) -> None:
        trimmed = await self._history.trimmed()
        if stream_key(self._at) < stream_key(trimmed):
            self._gaps += 1
            log.error(
                "events were trimmed before they were folded", fold=self._name, at=self._at, trimmed=trimmed
            )


class Follower(Generic[S]):
    """Serves the newest checkpoint of a fold that someone else leads."""

    def __init__(
        self,
        history: History,
        fold: Fold[S],
        *,
        name: str,
        on_state: Callable[[S, Checkpoint], Awaitable[None]],
        every: timedelta = timedelta(milliseconds=500),
    ) -> None:
        self._history = history
        self._fold = fold
        self._name = name
        self._on_state = on_state
        self._every = every.total_seconds()
        self._version = 0

    async def run(self) -> None:
        """Look for a newer checkpoint now and then, for ever. Ends when cancelled."""
        while True:
            try:
                await self.look()
            except HistoryUnavailable as error:
                log.warning("history away", fold=self._name, reason=error.message)
            await asyncio.sleep(self._every)

    async def look(self) -> bool:
        """Take the newest checkpoint if it is new to us. Raises HistoryUnavailable."""
        if await self._history.version(self._name) == self._version:
            return False
        checkpoint = await self._history.load(self._name)
        if checkpoint is None or checkpoint.format != self._fold.format:
            return False
        self._version = checkpoint.version
        state = await loaded(self._fold, self._name, checkpoint)
        if state is None:
            return False
        await self._on_state(state, checkpoint)
        return True


async def loaded(fold: Fold[S], name: str, checkpoint: Checkpoint | None) -> S | None:
    """The state in a checkpoint of this fold's format; None for another, and for one that is damaged: the process would
    otherwise end, and end again whenever it is started."""
    if checkpoint is None or checkpoint.format != fold.format:
        return None
    try:
        return await asyncio.to_thread(fold.load, checkpoint.state)
    except Exception as error:
        log.error(
            "checkpoint cannot be read", fold=name, version=checkpoint.version, reason=type(error).__name__
        )
        return None
