"""The newest part of the history in memory, so that a page never waits for Redis."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from itertools import islice, takewhile

import msgspec
import structlog

from coremesh.errors import HistoryUnavailable
from coremesh.events import Event, ForwardEvent
from coremesh.history import Entry, History
from coremesh.metagraph import Metagraph
from coremesh.types import ORIGIN, StreamId, hotkey_digest, stream_key
from services.querier.dashboard.learning import Lesson, lesson
from services.querier.dashboard.window import Window

log = structlog.get_logger(__name__)

EVENTS = 2000
"""Events kept, without their texts."""
PAGE = 200
"""Events taken at once: the loop is free again after each page."""
WAIT = timedelta(seconds=1)
IDLE_MS = 60_000
"""Without a forward for longer than this, and than the last ones took, it is not said how many there were before."""
AGAIN_S = 0.5
PAUSE_S = 0.25
"""Between two looks at a history that grows: people see no difference, and events are read many at a time instead of
each for itself, beside the users' requests."""


class HistoryFollower:
    """Reads along for ever; keeps the newest EVENTS events that are sound, a Window of every miner, and lessons of
    gating."""

    def __init__(self, history: History, metagraph: Callable[[], Metagraph | None]) -> None:
        self._history = history
        self._metagraph = metagraph
        self._seen: Metagraph | None = None
        self._at: StreamId | None = None
        self._events: deque[Entry] = deque(maxlen=EVENTS)
        self._lessons: deque[Lesson] = deque(maxlen=EVENTS)
        self._learnt = 0
        self.window = Window()
        self.problem: str | None = "the history has not been read yet"
        """Why what is here may be old; None while all is well."""

    @property
    def last_id(self) -> StreamId:
        """The place of the newest event known, ORIGIN while there is none."""
        return self._at or ORIGIN

    @property
    def lessons(self) -> list[Lesson]:
        """Of the newest events, oldest first."""
        return list(self._lessons)

    @property
    def lessons_before(self) -> int:
        """How many lessons are not kept any more."""
        return self._learnt - len(self._lessons)

    def __len__(self) -> int:
        return len(self._events)

    def newest(self, count: int, after: StreamId = ORIGIN) -> list[Entry]:
        """Up to ``count`` events after a place, newest first."""
        place = stream_key(after)
        newer = takewhile(lambda entry: stream_key(entry.stream_id) > place, reversed(self._events))
        return list(islice(newer, count))

    def find(self, event_id: str) -> Entry | None:
        """An event by its id, if it is among those kept."""
        return next((entry for entry in reversed(self._events) if entry.event.id == event_id), None)

    def behind(self, place: StreamId) -> int:
        """How many of the events kept come after ``place``."""
        return len(self.newest(EVENTS, place))

    def per_minute(self, now_ms: int | None = None) -> float | None:
        """Forwards a minute over the newest 200, up to now where nothing has come for long; None while there are fewer
        than two."""
        times = [e.event.time_ms for e in self.newest(PAGE) if isinstance(e.event, ForwardEvent)]
        spread = max(times) - min(times) if len(times) > 1 else 0
        if spread <= 0:
            return None
        idle = (time.time_ns() // 1_000_000 if now_ms is None else now_ms) - max(times)
        if idle > max(IDLE_MS, spread):
            spread += idle
        return (len(times) - 1) * 60_000 / spread

    async def look(self) -> int:
        """Take what is new, waiting a moment for it: how many events. Raises HistoryUnavailable."""
        self._forget()
        if self._at is None:
            entries = (await self._history.tail(EVENTS))[::-1]
            self._at = ORIGIN
        else:
            entries = await self._history.read(self._at, PAGE, WAIT)
        for i, entry in enumerate(entries):
            self._take(entry)
            if i % PAGE == PAGE - 1:
                await asyncio.sleep(0)
        if entries:
            self._at = entries[-1].stream_id
        return len(entries)

    async def run(self) -> None:
        """Keep looking, for ever. Redis being away only makes it wait."""
        while True:
            try:
                found = await self.look()
                self.problem = None
                if 0 < found < PAGE:
                    await asyncio.sleep(PAUSE_S)
            except HistoryUnavailable as error:
                if self.problem != error.message:
                    log.warning("the dashboard stands still", reason=error.message)
                self.problem = error.message
                await asyncio.sleep(AGAIN_S)

    def _take(self, entry: Entry) -> None:
        event = entry.event
        if isinstance(event, ForwardEvent):
            if not event.sound:
                return
            self.window.note(event)
            if (learnt := lesson(event)) is not None:
                self._lessons.append(learnt)
                self._learnt += 1
        self._events.append(Entry(entry.stream_id, _without_texts(event)))

    def _forget(self) -> None:
        current = self._metagraph()
        if current is not None and current is not self._seen:
            self._seen = current
            self.window.keep(hotkey_digest(hotkey) for hotkey in current.hotkeys)


def _without_texts(event: Event) -> Event:
    return msgspec.structs.replace(event, messages=()) if isinstance(event, ForwardEvent) else event
