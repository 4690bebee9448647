"""The priority queue in front of the network."""

from __future__ import annotations

import asyncio

import pytest

from coremesh.errors import Busy
from services.querier.caller import DELEGATES, KEYS, OTHERS, Priority
from services.querier.slots import HungUp, Slots
from tests.wait import wait_until


class Crowd:
    """Callers of one ``Slots``, each of whom holds its slot until told."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.served: list[str] = []
        self.refused: list[str] = []
        self._done: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, priority: Priority = OTHERS) -> None:
        before = self.slots.waiting, len(self.served), len(self.refused)
        self._done[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, priority))
        await wait_until(
            lambda: (self.slots.waiting, len(self.served), len(self.refused)) != before, every=0.001
        )

    async def _hold(self, name: str, priority: Priority) -> None:
        try:
            async with self.slots.take(priority):
                self.served.append(name)
                await self._done[name].wait()
        except Busy:
            self.refused.append(name)

    async def go(self, name: str) -> None:
        self._done[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)

    async def all_go(self) -> None:
        for event in self._done.values():
            event.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_who_waits_goes_by_priority_then_by_arrival() -> None:
    crowd = Crowd(Slots(1, queue=10, wait_s=30))
    await crowd.come("holder")
    await crowd.come("stranger")
    await crowd.come("another stranger")
    await crowd.come("small delegate", Priority(DELEGATES, 1.5))
    await crowd.come("large delegate", Priority(DELEGATES, 900.0))
    await crowd.come("key", KEYS)
    order = ["holder", "key", "large delegate", "small delegate", "stranger", "another stranger"]
    for at, name in enumerate(order):
        assert crowd.served == order[: at + 1]
        await crowd.go(name)
    assert crowd.served == order
    assert crowd.refused == []
    assert crowd.slots.waiting == 0


async def test_a_full_queue_refuses_the_last_in_line() -> None:
    crowd = Crowd(Slots(1, queue=2, wait_s=30))
    await crowd.come("holder")
    await crowd.come("first")
    await crowd.come("second")
    await crowd.come("third")
    assert crowd.refused == ["third"]
    tasks = asyncio.create_task(crowd.come("key", KEYS))
    await wait_until(lambda: crowd.refused == ["third", "second"])
    await tasks
    await crowd.all_go()
    assert crowd.served == ["holder", "key", "first"]


async def test_nobody_waits_longer_than_the_bound() -> None:
    slots = Slots(1, queue=2, wait_s=0.05)
    async with slots.take():
        with pytest.raises(Busy) as refusal:
            async with slots.take(KEYS):
                pytest.fail("it got a slot that is taken")
        assert refusal.value.retry_after_s == 0.05
        assert slots.waiting == 0
    async with slots.take():
        pass


async def test_without_a_queue_the_next_is_refused_at_once() -> None:
    slots = Slots(1)
    async with slots.take():
        with pytest.raises(Busy):
            async with slots.take(KEYS):
                pytest.fail("it got a slot that is taken")


async def test_who_leaves_the_queue_keeps_no_slot() -> None:
    crowd = Crowd(Slots(1, queue=3, wait_s=30))
    await crowd.come("holder")
    await crowd.come("quitter")
    await crowd.come("patient")
    crowd.tasks["quitter"].cancel()
    await asyncio.wait([crowd.tasks["quitter"]])
    await crowd.go("holder")
    assert crowd.served == ["holder", "patient"]
    # Cancelled in the moment in which its turn comes: the slot is not lost.
    await crowd.come("late")
    crowd._done["patient"].set()
    await crowd.tasks["patient"]
    crowd.tasks["late"].cancel()
    await asyncio.wait([crowd.tasks["late"]])
    await crowd.come("next")
    assert crowd.served[-1] == "next"
    await crowd.all_go()


async def test_who_hangs_up_while_waiting_gives_its_place_back_at_once() -> None:
    slots = Slots(1, queue=1, wait_s=30)
    hangs_up = asyncio.Event()

    async def gone() -> None:
        await hangs_up.wait()

    async def come() -> None:
        async with slots.take(gone=gone):
            pytest.fail("it got a slot that is taken")

    async with slots.take():
        caller = asyncio.create_task(come())
        await wait_until(lambda: slots.waiting == 1)
        hangs_up.set()
        with pytest.raises(HungUp):
            await caller
        assert slots.waiting == 0
    async with slots.take(gone=gone):
        pass


async def test_a_turn_that_comes_as_its_caller_hangs_up_goes_to_the_next() -> None:
    crowd = Crowd(Slots(1, queue=2, wait_s=30))
    await crowd.come("holder")
    hangs_up = asyncio.Event()

    async def gone() -> None:
        await hangs_up.wait()

    async def come() -> None:
        async with crowd.slots.take(KEYS, gone):
            pytest.fail("nobody is there")

    caller = asyncio.create_task(come())
    await wait_until(lambda: crowd.slots.waiting == 1)
    await crowd.come("next")
    hangs_up.set()
    await crowd.go("holder")
    with pytest.raises(HungUp):
        await caller
    await wait_until(lambda: crowd.served == ["holder", "next"])
    await crowd.all_go()
