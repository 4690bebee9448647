"""How many user requests are served at once, and who goes next."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from coremesh.errors import Busy, CoremeshError
from services.querier.caller import OTHERS, Priority
from services.querier.metrics import CALLERS, CALLERS_REFUSED, CALLERS_WAITING

Gone = Callable[[], Coroutine[Any, Any, None]]
"""Returns when the caller has hung up."""


class HungUp(CoremeshError):
    """The caller closed its connection while it was waiting; nobody reads this."""

    code = "hung_up"
    status = 499


@dataclass(frozen=True, slots=True, order=True)
class _Waiter:
    """Sorts by who goes first: the higher priority, then who came first."""

    rank: tuple[float, float, int]
    turn: asyncio.Future[None] = field(compare=False)


class Slots:
    """``most`` requests at once. Beyond, ``queue`` more wait up to ``wait_s`` seconds, the highest priority first.

    When the queue is full a newcomer takes the place of the last in it if its own priority is higher. Whoever gets no
    slot gets Busy.
    """

    def __init__(self, most: int, *, queue: int = 0, wait_s: float = 1.0) -> None:
        self._most = most
        self._queue = queue
        self._wait_s = wait_s
        self._taken = 0
        self._arrivals = 0
        self._waiting: list[_Waiter] = []

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def take(self, priority: Priority = OTHERS, gone: Gone | None = None) -> AsyncIterator[None]:
        """Hold a slot. Raises Busy, and HungUp for a caller that is ``gone`` while it waits for one."""
        await self._acquire(priority, gone)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, priority: Priority, gone: Gone | None) -> None:
        if self._taken < self._most:
            self._count(+1)
            return
        self._arrivals += 1
        waiter = _Waiter(
            (-priority.rank, -priority.stake, self._arrivals), asyncio.get_running_loop().create_future()
        )
        if len(self._waiting) >= self._queue:
            if not self._waiting or self._waiting[-1] < waiter:
                raise self._busy()
            self._waiting.pop().turn.set_exception(self._busy())
        insort(self._waiting, waiter)
        CALLERS_WAITING.set(len(self._waiting))
        leaving = asyncio.create_task(gone()) if gone is not None else None
        try:
            async with asyncio.timeout(self._wait_s):
                await asyncio.wait({waiter.turn, leaving or waiter.turn}, return_when=asyncio.FIRST_COMPLETED)
            if leaving is not None and leaving.done():
                self._give_up(waiter)
                raise HungUp("the caller hung up while it was waiting")
            waiter.turn.result()
        except TimeoutError:
            self._give_up(waiter)
            raise self._busy() from None
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise
        finally:
            if leaving is not None:
                leaving.cancel()

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            CALLERS_WAITING.set(len(self._waiting))
        elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
            self._release()  # the slot came in the same moment

    def _release(self) -> None:
        while self._waiting:
            waiter = self._waiting.pop(0)
            CALLERS_WAITING.set(len(self._waiting))
            if not waiter.turn.done():
                waiter.turn.set_result(None)  # the slot goes on, and stays counted
                return
        self._count(-1)

    def _count(self, by: int) -> None:
        self._taken += by
        CALLERS.set(self._taken)

    def _busy(self) -> Busy:
        CALLERS_REFUSED.labels("queue").inc()
        return Busy(
            f"{self._most} requests are being served already and {len(self._waiting)} wait",
            retry_after_s=self._wait_s,
        )
