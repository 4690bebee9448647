"""The leader of the head looks once it holds the lease: what its process followed may have changed by then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from coremesh.aside import end_tasks
from coremesh.history.protocol import Checkpoint, Entry
from coremesh.types import ORIGIN
from services.gating.generation import FOLD, NEXT, NEXT_ROLE, ROLE, _HeadRunner
from tests.events import make_event
from tests.fakes.history import MemoryHistory
from tests.wait import wait_until

TTL = timedelta(milliseconds=200)


class Counting:
    """Counts entries; its state says who counted."""

    def __init__(self, name: str) -> None:
        self.format = name

    def initial(self) -> bytes:
        return b""

    def load(self, state: bytes) -> bytes:
        return state

    def dump(self, state: bytes) -> bytes:
        return state

    async def apply(self, state: bytes, entries: list[Entry]) -> bytes:
        return state + self.format.encode() * len(entries)


async def saved(history: MemoryHistory, name: str, role: str, format: str, state: bytes) -> None:
    lease = await history.acquire(role, "before", timedelta(seconds=9))
    assert lease is not None
    last = await history.last_id()
    await history.save(name, Checkpoint(last_id=last, state=state, format=format), lease, ORIGIN)
    await history.release(lease)


@asynccontextmanager
async def running(history: MemoryHistory, may: bool) -> AsyncIterator[None]:
    fold: Any = Counting("b")
    runner = _HeadRunner(history, fold, name=FOLD, role=ROLE, holder="me", ttl=TTL, may_take_over=lambda: may)
    task = asyncio.create_task(runner.run())
    yield
    await end_tasks((task,))


@pytest.fixture
async def history() -> MemoryHistory:
    made = MemoryHistory()
    await made.append(make_event({1: 0.5}), None, [])
    await saved(made, FOLD, ROLE, "a", b"aa")
    return made


async def test_the_head_of_another_generation_is_left_alone_and_its_lease_given_back(
    history: MemoryHistory,
) -> None:
    asked: list[str] = []
    async with running(history, may=False):

        async def tried() -> bool:
            asked.append(await history.leader(ROLE) or "nobody")
            return "me" in asked and asked[-1] == "nobody"

        await wait_until(tried, every=0.0, why="it led, and gave the lease back")
        await history.append(make_event({1: 0.5}), None, [])
        await asyncio.sleep(TTL.total_seconds())
    head = await history.load(FOLD)
    assert head is not None
    assert (head.format, head.state) == ("a", b"aa")


async def test_what_grew_beside_becomes_the_head_as_it_is(history: MemoryHistory) -> None:
    await saved(history, NEXT, NEXT_ROLE, "b", b"grown:")
    async with running(history, may=True):

        async def taken() -> Checkpoint | None:
            head = await history.load(FOLD)
            return head if head and head.format == "b" else None

        head = await wait_until(taken)
        assert head is not None
        assert head.state == b"grown:"
        await history.append(make_event({1: 0.5}), None, [])

        async def went_on() -> bool:
            head = await history.load(FOLD)
            return head is not None and head.state == b"grown:b"

        await wait_until(went_on, why="it folds on from what grew")
