"""The newest metagraph, kept in memory so that no request waits for Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

import structlog

from coremesh.errors import HistoryUnavailable
from coremesh.metagraph import Metagraph, Neuron
from coremesh.service.metrics import METAGRAPH_BLOCK
from services.querier.metrics import METAGRAPH_AGE_SECONDS

log = structlog.get_logger(__name__)


class MetagraphSource(Protocol):
    """Where snapshots come from: a History."""

    async def metagraph(self) -> Metagraph | None:
        """The newest published snapshot."""
        ...


class SnapshotFollower:
    """Looks for a newer metagraph every ``every``; while Redis is away the last one stays in use."""

    def __init__(
        self,
        source: MetagraphSource,
        *,
        own_hotkey: str,
        every: timedelta = timedelta(milliseconds=500),
        max_age: timedelta = timedelta(hours=1),
        on_change: Callable[[Metagraph], None] = lambda metagraph: None,
    ) -> None:
        self._source = source
        self._own_hotkey = own_hotkey
        self._every = every.total_seconds()
        self._max_age_s = max_age.total_seconds()
        self._on_change = on_change
        self._available: tuple[Neuron, ...] = ()
        self.current: Metagraph | None = None

    @property
    def available(self) -> tuple[Neuron, ...]:
        """Who can be asked now, in uid order; empty while no metagraph is known."""
        return self._available

    @property
    def block(self) -> int:
        """The block of the snapshot, 0 while none is known."""
        return self.current.block if self.current else 0

    @property
    def age_s(self) -> float:
        """Seconds since the weights service took the snapshot; infinite while none is known."""
        return max(0.0, time.time() - self.current.time_ms / 1000) if self.current else float("inf")

    async def look(self) -> None:
        """Take the newest snapshot. Raises HistoryUnavailable."""
        found = await self._source.metagraph()
        if found is None or found == self.current:
            return
        self.current = found
        self._available = tuple(found.available(self._own_hotkey))
        METAGRAPH_BLOCK.set(found.block)
        self._on_change(found)

    async def run(self) -> None:
        """Keep looking, for ever. Redis being away only makes it wait."""
        away = False
        while True:
            try:
                await self.look()
                away = False
            except HistoryUnavailable as error:
                if not away:
                    log.warning("serving from the last metagraph", block=self.block, reason=error.message)
                away = True
            if self.current:
                METAGRAPH_AGE_SECONDS.set(self.age_s)
            await asyncio.sleep(self._every)

    async def problem(self) -> str | None:
        """For readiness: None when a metagraph is known and fresh enough, else a sentence."""
        if self.current is None:
            return "no metagraph was published yet"
        if self.age_s > self._max_age_s:
            return f"the metagraph is {self.age_s:.0f} s old"
        return None
