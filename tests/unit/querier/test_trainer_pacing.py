"""How fast to train."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

from services.querier.pacing import Pace, Window


class Clock:
    """Time that passes only where somebody sleeps: all who sleep wake in order."""

    def __init__(self) -> None:
        self.now = 100.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self.now + seconds, woken))
        await woken.wait()

    async def run(self, *work: Coroutine[Any, Any, None]) -> list[float]:
        """The times at which each of ``work`` is over."""
        over: list[float] = []

        async def timed(one: Coroutine[Any, Any, None]) -> None:
            await one
            over.append(round(self.now, 6))

        tasks = [asyncio.create_task(timed(one)) for one in work]
        while not all(task.done() for task in tasks):
            for _ in range(3):
                await asyncio.sleep(0)
            if self._sleepers:
                self._sleepers.sort(key=lambda sleeper: sleeper[0])
                self.now, woken = self._sleepers.pop(0)
                woken.set()
        return over


async def test_starts_keep_their_distance_and_missed_ones_are_not_made_up_for() -> None:
    clock = Clock()
    pace = Pace(5.0, clock=lambda: clock.now, sleep=clock.sleep)
    assert await clock.run(*(pace.wait() for _ in range(4))) == [100.0, 105.0, 110.0, 115.0]
    clock.now = 200.0
    assert await clock.run(*(pace.wait() for _ in range(3))) == [200.0, 205.0, 210.0]


async def test_without_a_rate_nobody_waits() -> None:
    clock = Clock()
    pace = Pace(0.0, clock=lambda: clock.now, sleep=clock.sleep)
    assert await clock.run(*(pace.wait() for _ in range(100))) == [100.0] * 100


def test_a_window_halves_when_scores_are_behind_and_grows_back_by_one_a_round() -> None:
    window = Window(8)
    sizes = []
    for _ in range(5):
        window.heard(behind=True)
        sizes.append(window.size)
    assert sizes == [4, 2, 1, 1, 1]
    for _ in range(100):
        window.heard(behind=False)
    assert window.size == 8


async def test_a_window_holds_back_what_is_too_many() -> None:
    window = Window(4)
    running, most, doors = 0, 0, deque[asyncio.Event]()

    async def run() -> None:
        nonlocal running, most
        async with window:
            running += 1
            most = max(most, running)
            door = asyncio.Event()
            doors.append(door)
            await door.wait()
            running -= 1

    window.heard(behind=True)
    tasks = [asyncio.create_task(run()) for _ in range(6)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        if doors:
            doors.popleft().set()
    assert (most, running) == (2, 0)


async def test_a_cancelled_one_leaves_its_place() -> None:
    window = Window(1)

    async def hang() -> None:
        async with window:
            await asyncio.Event().wait()

    holder, waiter = asyncio.create_task(hang()), asyncio.create_task(hang())
    await asyncio.sleep(0)
    for task in (waiter, holder):
        task.cancel()
    await asyncio.gather(holder, waiter, return_exceptions=True)
    async with asyncio.timeout(5), window:
        pass
