"""Appending events so that none is lost while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog

from coremesh.errors import HistoryUnavailable
from coremesh.events import ForwardEvent, Transcript
from coremesh.history.protocol import History
from coremesh.history.spool import Spool, Spooled

log = structlog.get_logger(__name__)

DRAIN_BATCH = 100


class Recorder:
    """Appends to the history, or to the spool when the history is away; ``run`` brings spooled events home.

    An append that takes longer than ``patience`` is spooled: until then the event is in this process alone. Where Redis
    has taken it after all, appending it again changes nothing.

    ``on_recorded(outcome)`` is told ``appended``, ``spooled`` or ``drained`` for every event.
    """

    def __init__(
        self,
        history: History,
        spool: Spool,
        *,
        patience: timedelta = timedelta(seconds=2),
        retry_every: timedelta = timedelta(seconds=1),
        on_recorded: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._history = history
        self._spool = spool
        self._patience_s = patience.total_seconds()
        self._retry_s = retry_every.total_seconds()
        self._on_recorded = on_recorded
        self._disk = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """Events on disk that the history does not have yet."""
        return len(self._spool)

    async def record(self, event: ForwardEvent, transcript: Transcript | None, hotkeys: list[str]) -> None:
        """Keep an event: when this returns it is in Redis or on the disk. Raises SpoolFull, OSError."""
        if not self.waiting:
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._history.append(event, transcript, hotkeys)
            except (HistoryUnavailable, TimeoutError) as error:
                log.warning("event spooled", event_id=event.id, reason=str(error) or "Redis takes too long")
            else:
                self._on_recorded("appended")
                return
        async with self._disk:
            await asyncio.to_thread(self._spool.put, Spooled(event, transcript, hotkeys))
        self._on_recorded("spooled")

    async def run(self) -> None:
        """Drain the spool whenever Redis is back. Ends only when cancelled: a disk that fails is tried again."""
        while True:
            if self.waiting:
                try:
                    await self.drain()
                except OSError as error:
                    log.error("events wait on a disk that fails", reason=str(error))
            await asyncio.sleep(self._retry_s)

    async def drain(self) -> None:
        """Append what waits, oldest first, until none is left or Redis is away again. Raises OSError."""
        while self.waiting:
            async with self._disk:
                batch = await asyncio.to_thread(self._spool.oldest, DRAIN_BATCH)
            for spooled in batch:
                try:
                    await self._history.append(spooled.event, spooled.transcript, spooled.hotkeys)
                except HistoryUnavailable:
                    return
                async with self._disk:
                    await asyncio.to_thread(self._spool.drop, spooled)
                self._on_recorded("drained")
