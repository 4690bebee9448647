"""How fast to train: as fast as is wanted, and no faster than the scores come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType

from services.querier.metrics import TRAINER_WINDOW


class Pace:
    """Lets at most one start every ``every_s``; missed starts are not made up for."""

    def __init__(
        self,
        every_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._every_s = every_s
        self._clock = clock
        self._sleep = sleep
        self._next = 0.0

    async def wait(self) -> None:
        """Return when it is one's turn."""
        now = self._clock()
        start = max(now, self._next)
        self._next = start + self._every_s
        if start > now:
            await self._sleep(start - now)


class Window:
    """How many may run at once, an async context manager: between 1 and ``most``.

    It halves when scores stay behind, and grows by about one for each round of forwards whose scores came in time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = float(most)
        self._running = 0
        self._freed = asyncio.Condition()

    @property
    def size(self) -> int:
        """How many may run now."""
        return int(self._size)

    def heard(self, *, behind: bool) -> None:
        """Take note of one forward's scores."""
        self._size = max(1.0, self._size / 2) if behind else min(self._most, self._size + 1 / self._size)
        TRAINER_WINDOW.set(self.size)

    async def __aenter__(self) -> Window:
        async with self._freed:
            await self._freed.wait_for(lambda: self._running < self.size)
            self._running += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running -= 1
        async with self._freed:
            self._freed.notify_all()
