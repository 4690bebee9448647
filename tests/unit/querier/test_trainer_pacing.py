"""How fast to train."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from services.querier.pacing import Pace, Window


async def test_starts_keep_their_distance_and_missed_ones_are_not_made_up_for() -> None:
    pace = Pace(0.05)
    started = time.monotonic()
    await asyncio.gather(*(pace.wait() for _ in range(4)))
    assert time.monotonic() - started >= 0.15
    await asyncio.sleep(0.3)
    started = time.monotonic()
    await asyncio.gather(*(pace.wait() for _ in range(3)))
    assert time.monotonic() - started >= 0.1


async def test_without_a_rate_nobody_waits() -> None:
    pace = Pace(0.0)
    async with asyncio.timeout(5):
        for _ in range(10_000):
            await pace.wait()


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
