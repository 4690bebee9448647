from __future__ import annotations

import asyncio
import threading
import time

import pytest

from services.weights.chain.thread import LoopStuck, LoopThread
from tests.wait import wait_until


@pytest.fixture
def thread():
    made = LoopThread("test")
    yield made
    made.stop()


async def test_work_runs_on_the_thread_and_its_errors_come_back(thread: LoopThread) -> None:
    async def where() -> str:
        return threading.current_thread().name

    async def fail() -> None:
        raise ValueError("no")

    assert await thread.call(where, 5) == "test"
    with pytest.raises(ValueError, match="no"):
        await thread.call(fail, 5)


async def test_a_deadline_ends_the_work(thread: LoopThread) -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")

    with pytest.raises(TimeoutError):
        await thread.call(slow, 0.05)
    assert ended == ["slow"]


async def test_cancelling_ends_the_work(thread: LoopThread) -> None:
    seen: list[str] = []

    async def slow() -> None:
        seen.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("ended")

    task = asyncio.create_task(thread.call(slow, 60))
    await wait_until(lambda: seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: seen == ["begun", "ended"])


async def test_a_blocked_thread_is_told_from_a_slow_one(thread: LoopThread) -> None:
    release = threading.Event()

    async def block() -> None:
        release.wait(30)

    start = time.monotonic()
    with pytest.raises(LoopStuck):
        await thread.call(block, 0.05)
    assert time.monotonic() - start < 20
    release.set()
