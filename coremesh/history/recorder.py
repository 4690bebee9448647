"""Appending events so that none is lost while Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from coremesh.errors import HistoryUnavailable
from coremesh.events import ForwardEvent, Transcript, decode_id
from coremesh.history.keys import SEEN_RETENTION
from coremesh.history.protocol import History
from coremesh.history.spool import Spool, Spooled, SpoolFull
from coremesh.types import StreamId, event_id_ms, stream_key

log = structlog.get_logger(__name__)

DRAIN_BATCH = 100
PAGE = 1_000
CLOCKS_APART = timedelta(hours=1)
"""How far the clocks of Redis and of whoever observed an event may be apart."""
TURNS = 60
"""Every so many times that the spool is looked into, files that could not be read or deleted are tried again."""


class Recorder:
    """Appends to the history, or to the spool when the history is away; ``run`` brings spooled events home.

    An append that takes longer than ``patience`` is spooled: until then the event is in this process alone. Where Redis
    has taken it after all, appending it again changes nothing.

    What the history may have forgotten that it has, because its process was away for so long, is looked for among all
    its events first, and set aside where those of its time are trimmed: nothing counts twice.

    A file that cannot be read waits no longer, and keeps none of the others; it is tried again now and then.

    A disk that fails keeps nothing from a history that is there: what came home from a file that cannot be deleted
    waits no longer. It is sent again now and then, so that the history does not forget that it has it.

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
        self._home: set[str] = set()
        """Events that the history has, and whose files could not be deleted."""

    @property
    def waiting(self) -> int:
        """Events on disk that the history does not have yet."""
        return max(0, len(self._spool) - len(self._home))

    @property
    def set_aside(self) -> int:
        """Files on disk that are not sent: damaged, or their disk does not give them."""
        return self._spool.set_aside

    async def record(self, event: ForwardEvent, transcript: Transcript | None, hotkeys: list[str]) -> None:
        """Keep an event: when this returns it is in Redis or on the disk. Raises SpoolFull, OSError."""
        first = not self.waiting
        if first:
            try:
                await self._append(event, transcript, hotkeys)
            except (HistoryUnavailable, TimeoutError) as error:
                log.warning("event spooled", event_id=event.id, reason=str(error) or "Redis takes too long")
            else:
                return
        try:
            async with self._disk:
                await asyncio.to_thread(self._spool.put, Spooled(event, transcript, hotkeys))
        except (SpoolFull, OSError) as error:
            if first:
                raise
            try:
                await self._append(event, transcript, hotkeys)
            except (HistoryUnavailable, TimeoutError):
                raise error from None
            return
        self._on_recorded("spooled")

    async def _append(self, event: ForwardEvent, transcript: Transcript | None, hotkeys: list[str]) -> None:
        async with asyncio.timeout(self._patience_s):
            await self._history.append(event, transcript, hotkeys)
        self._on_recorded("appended")

    async def run(self) -> None:
        """Drain the spool whenever Redis is back. Ends only when cancelled: a disk that fails is tried again."""
        turn = 0
        while True:
            turn += 1
            try:
                if self.waiting:
                    await self.drain()
                if turn % TURNS == 0:
                    async with self._disk:
                        await asyncio.to_thread(self._spool.look)
                    if self._home:
                        await self._delete_again()
            except OSError as error:
                log.error("events wait on a disk that fails", reason=str(error))
            await asyncio.sleep(self._retry_s)

    async def drain(self) -> None:
        """Append what waits, oldest first, until none is left or Redis is away again. Raises OSError."""
        try:
            await self._settle_old()
        except HistoryUnavailable:
            return
        while self.waiting:
            async with self._disk:
                batch = await asyncio.to_thread(self._spool.oldest, DRAIN_BATCH, self._home)
            for spooled in batch:
                try:
                    await self._history.append(spooled.event, spooled.transcript, spooled.hotkeys)
                except HistoryUnavailable:
                    return
                await self._delete(spooled.event.id)
                self._on_recorded("drained")

    async def _settle_old(self) -> None:
        """Leave no event to be appended that the history may have taken and forgotten. Raises HistoryUnavailable."""
        async with self._disk:
            ids = await asyncio.to_thread(self._spool.ids)
        forgotten_ms = time.time_ns() // 1_000_000 - _ms(SEEN_RETENTION - CLOCKS_APART)
        old = {one: ms for one in ids if one not in self._home and (ms := _time(one)) < forgotten_ms}
        if not old:
            return
        there: set[str] = set()
        at = StreamId(f"{max(0, int(min(old.values())) - _ms(CLOCKS_APART))}-0")
        while page := await self._history.read(at, PAGE, decode=decode_id):
            there |= old.keys() & {str(entry.event) for entry in page}
            at = page[-1].stream_id
        trimmed_ms = stream_key(await self._history.trimmed())[0]
        log.info("old events waited on disk", events=len(old), counted_already=len(there))
        for event_id, ms in old.items():
            if event_id in there:
                await self._delete(event_id)
            elif trimmed_ms >= ms - _ms(CLOCKS_APART):
                async with self._disk:
                    reason = "it may have been counted, and the events of its time are trimmed"
                    await asyncio.to_thread(self._spool.doubt, event_id, reason)

    async def _delete(self, event_id: str) -> bool:
        """Forget an event that the history has. Gives whether its file is gone."""
        try:
            async with self._disk:
                await asyncio.to_thread(self._spool.drop, event_id)
        except OSError as error:
            if event_id not in self._home:
                log.error("a file of the spool cannot be deleted", event_id=event_id, reason=str(error))
            self._home.add(event_id)
            return False
        self._home.discard(event_id)
        return True

    async def _delete_again(self) -> None:
        """Try what could not be deleted once more, and have the history remember it. Raises OSError."""
        async with self._disk:
            self._home &= set(await asyncio.to_thread(self._spool.ids))
        for event_id in sorted(self._home):
            if await self._delete(event_id):
                continue
            async with self._disk:
                spooled = await asyncio.to_thread(self._spool.find, event_id)
            if spooled is None:
                continue
            try:
                await self._history.append(spooled.event, spooled.transcript, spooled.hotkeys)
            except HistoryUnavailable:
                return


def _ms(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)


def _time(event_id: str) -> float:
    """When an event was observed, in ms since 1970; never for a file that is named by no id."""
    try:
        return event_id_ms(event_id)
    except ValueError:
        return float("inf")
