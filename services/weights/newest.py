"""The newest event of the history, so that a fold that stands still can be told from a history that does."""

from __future__ import annotations

import asyncio
import math

from prometheus_client import Gauge

from coremesh.errors import HistoryUnavailable
from coremesh.history import History
from coremesh.types import stream_key

EVENT_TIME = Gauge(
    "coremesh_history_event_timestamp_seconds",
    "When the history took its newest event; NaN until there is one, or while the history is away",
)
EVENT_TIME.set(math.nan)
EVENTS = Gauge("coremesh_history_events", "Events that the history keeps")
LOOK_S = 2.0


async def watch_history(history: History) -> None:
    """Show where the history ends, for ever."""
    while True:
        try:
            await look(history)
        except HistoryUnavailable:
            EVENT_TIME.set(math.nan)
        await asyncio.sleep(LOOK_S)


async def look(history: History) -> None:
    """Show where the history ends now. Raises HistoryUnavailable."""
    appended_ms = stream_key(await history.last_id())[0]
    EVENT_TIME.set(appended_ms / 1000 if appended_ms else math.nan)
    EVENTS.set(await history.length())
