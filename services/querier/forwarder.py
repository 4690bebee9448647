"""The forwards in flight: bounded in number, finished before the process ends."""

from __future__ import annotations

import asyncio
from typing import Any

from coremesh.errors import Busy, DeadlineExceeded
from services.querier.forward import Forward, Parts
from services.querier.live import LiveText
from services.querier.metrics import FORWARDS_IN_FLIGHT
from services.querier.query import Answer, Query

CUT_GRACE_S = 10.0
"""Seconds for judging and recording after miners are waited for no longer."""


class Forwarder:
    """Starts forwards and keeps them until their event is recorded, whatever becomes of the caller."""

    def __init__(self, parts: Parts, *, most: int) -> None:
        self._parts = parts
        self._most = most
        self._running: dict[asyncio.Task[None], Forward] = {}

    @property
    def in_flight(self) -> int:
        """Forwards that are not recorded yet."""
        return len(self._running)

    def start(self, query: Query) -> tuple[Forward, asyncio.Task[None]]:
        """Start a query; the task ends when its event is recorded. Raises Busy when too many are in flight."""
        if len(self._running) >= self._most:
            raise Busy(f"{len(self._running)} queries of the network are in flight")
        forward = Forward(self._parts, query, crowded=self._crowded)
        task = asyncio.create_task(forward.run(), name=f"forward-{query.id}")
        self._running[task] = forward
        FORWARDS_IN_FLIGHT.set(len(self._running))
        task.add_done_callback(self._ended)
        return forward, task

    async def ask(self, query: Query, *, within_s: float | None = None) -> Answer:
        """The answer as soon as there is one.

        Raises Busy, NoMinerAvailable, NoCompletion, UnsafeMessage, and DeadlineExceeded when it takes longer than
        ``within_s``; the forward itself goes on.
        """
        forward, _ = self.start(query)
        try:
            async with asyncio.timeout(within_s):
                # Not shielded: that takes the loop another turn. Nobody else waits for it, and giving it up leaves the
                # forward running.
                return await forward.answer
        except TimeoutError:
            raise DeadlineExceeded(f"there was no answer within {within_s:g} s") from None

    async def ask_and_record(self, query: Query) -> Answer:
        """The answer, once its event is recorded. Raises as ``ask``. Cancelling it leaves the forward running."""
        forward, task = self.start(query)
        await asyncio.shield(task)
        return forward.answer.result()

    async def drain(self, seconds: float) -> None:
        """Wait for all forwards; after ``seconds`` stop waiting for miners and record what there is."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for forward in self._running.values():
            forward.cut()
        if self._running:
            await asyncio.wait(self._running, timeout=CUT_GRACE_S)

    def _crowded(self) -> bool:
        """Whether rewards that no caller waits for would soon cost callers their place."""
        return len(self._running) > self._most // 2

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        FORWARDS_IN_FLIGHT.set(len(self._running))


async def begun_or_answered(forward: Forward, *, within_s: float) -> LiveText | None:
    """The live text once it has begun, or None once there is an answer.

    Raises what the answer raises, and DeadlineExceeded when neither comes within ``within_s``.
    """
    begun = asyncio.create_task(forward.live.begun.wait()) if forward.live is not None else None
    waiting: set[asyncio.Future[Any]] = {forward.answer} if begun is None else {forward.answer, begun}
    try:
        done, _ = await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if begun is not None:
            begun.cancel()
    if not done:
        raise DeadlineExceeded(f"there was no answer within {within_s:g} s")
    live = forward.live
    if live is not None and live.begun.is_set():
        return live
    forward.answer.result()
    return None
