"""Limits per caller, shared by all replicas."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from coremesh.errors import Busy, CoremeshError, HistoryUnavailable
from coremesh.history.callers import RedisCallers, Verdict
from coremesh.types import new_event_id
from services.querier.caller import Caller
from services.querier.metrics import CALLERS_REFUSED

log = structlog.get_logger(__name__)

HELD = timedelta(seconds=15)
"""How long a place outlives a replica that died with it, or was stopped. One that goes on after longer than that takes
back the places of what it still serves, and until these are free nobody is let in beyond the limit."""
HOLD_EVERY_S = 5.0
MINUTE_S = 60.0
MOST_LOCAL = 8192


class CallerChanged(CoremeshError):
    """The caller's key is no longer what it was when it was looked up."""

    code = "caller_changed"
    status = 401


@dataclass(slots=True)
class _Local:
    """What this replica knows of one caller: when it let requests in, and those being served."""

    asked: deque[float] = field(default_factory=deque[float])
    tickets: set[str] = field(default_factory=set[str])

    def verdict(self, caller: Caller, now: float) -> Verdict:
        """As Redis would say, from what this replica alone has seen."""
        self.forget(now)
        if 0 < caller.concurrent <= len(self.tickets):
            return Verdict("concurrent")
        if 0 < caller.per_minute <= len(self.asked):
            return Verdict("rate", self.asked[len(self.asked) - caller.per_minute] + MINUTE_S - now)
        return Verdict("ok")

    def forget(self, now: float) -> None:
        """Drop what is a minute old."""
        while self.asked and self.asked[0] <= now - MINUTE_S:
            self.asked.popleft()


class Admission:
    """Counts requests against their caller's limits.

    Redis counts for all replicas, in one step. While it is away each replica counts for itself, going on from what it
    has let in within the last minute: with R replicas a caller then gets at most R times its limits. Once Redis is back
    the places taken meanwhile count there too, within HOLD_EVERY_S; the minute's requests only from then on.
    """

    def __init__(self, store: RedisCallers) -> None:
        self._store = store
        self._local: OrderedDict[str, _Local] = OrderedDict()
        self._away = False

    async def enter(self, caller: Caller) -> str:
        """Let one request in; gives the ticket to ``leave`` with. Raises Busy over a limit, CallerChanged."""
        ticket = str(new_event_id())
        if not caller.limited:
            return ticket
        local = self._of(caller.id)
        try:
            verdict = await self._store.admit(
                caller.id,
                ticket,
                record=caller.record,
                per_minute=caller.per_minute,
                concurrent=caller.concurrent,
                held=HELD,
            )
            self._say(away=False)
        except HistoryUnavailable:
            verdict = local.verdict(caller, time.monotonic())
            self._say(away=True)
        if verdict.result == "changed":
            raise CallerChanged("this API key has changed")
        if verdict.result != "ok":
            CALLERS_REFUSED.labels(verdict.result).inc()
            raise _refusal(caller, verdict)
        if caller.per_minute:
            local.forget(time.monotonic())
            local.asked.append(time.monotonic())
        if caller.concurrent:
            local.tickets.add(ticket)
        # It may have been forgotten while Redis was asked.
        self._local[caller.id] = local
        return ticket

    async def leave(self, caller: Caller, ticket: str) -> None:
        """The request is over."""
        if not caller.limited:
            return
        local = self._of(caller.id)
        local.tickets.discard(ticket)
        if caller.concurrent:
            with suppress(HistoryUnavailable):  # its place lapses by itself
                await self._store.release(caller.id, ticket)

    async def hold(self) -> None:
        """Keep the places of requests being served, for ever."""
        while True:
            await asyncio.sleep(HOLD_EVERY_S)
            await self.hold_once()

    async def hold_once(self) -> None:
        """Keep the places of requests being served for another HELD. Redis being away is no error."""
        with suppress(HistoryUnavailable):
            for caller_id, local in list(self._local.items()):
                held = sorted(local.tickets)
                if not held:
                    continue
                await self._store.hold(caller_id, held, HELD)
                # One may have been given back, and then taken again by this.
                for ticket in set(held) - local.tickets:
                    await self._store.release(caller_id, ticket)

    def _of(self, caller_id: str) -> _Local:
        local = self._local.get(caller_id)
        if local is None:
            local = self._local[caller_id] = _Local()
        self._local.move_to_end(caller_id)
        for other, seen in list(self._local.items())[:2] if len(self._local) > MOST_LOCAL else ():
            if not seen.tickets:
                del self._local[other]
        return local

    def _say(self, *, away: bool) -> None:
        if away and not self._away:
            log.warning("callers' limits are kept by this replica alone while Redis is away")
        self._away = away


def _refusal(caller: Caller, verdict: Verdict) -> Busy:
    if verdict.result == "concurrent":
        return Busy(f"{caller.concurrent} requests of this caller are being served already")
    return Busy(
        f"this caller may ask {caller.per_minute} times a minute", retry_after_s=verdict.retry_after_s
    )
