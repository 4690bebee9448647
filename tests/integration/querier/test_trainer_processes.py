"""Trainer processes, of which one dies in the middle of a forward and one stands still for longer than its lease."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import httpx

from coremesh.events import ForwardEvent
from tests.integration.querier.conftest import World
from tests.integration.querier.network import says
from tests.integration.querier.test_processes import free_port, process
from tests.wait import wait_until

FACT = "Blue light is scattered more strongly by air than red light is."
FLAGS = (
    "--role",
    "trainer",
    "--trainer.pause-s",
    "0.05",
    "--trainer.in-flight",
    "2",
    "--trainer.lease-s",
    "1",
)


class Watch:
    """Asks every trainer, again and again, whether it trains; notes when two said so at once."""

    def __init__(self, clients: list[httpx.AsyncClient]) -> None:
        self.clients = clients
        self.leading: list[bool] = [False] * len(clients)
        self.both: list[list[bool]] = []

    async def run(self) -> None:
        while True:
            self.leading = list(await asyncio.gather(*map(self._leads, self.clients)))
            if sum(self.leading) > 1:
                self.both.append(self.leading)
            await asyncio.sleep(0.05)

    async def _leads(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get("/training", timeout=0.5)).json()["leading"]
        except (httpx.HTTPError, KeyError):
            return False

    async def only(self, index: int) -> None:
        wanted = [i == index for i in range(len(self.clients))]
        await wait_until(lambda: self.leading == wanted, timeout=30, why=f"trainer {index} leads alone")


async def rate(world: World, seconds: float = 3.0) -> float:
    """Scored events a second, from now on."""
    before = await scored(world)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    return (len(await scored(world)) - len(before)) / (time.monotonic() - began)


async def scored(world: World) -> list[ForwardEvent]:
    return [event for event in await world.forwards() if event.scored]


async def test_one_trains_at_a_time_and_every_forward_counts_once(world: World) -> None:
    miners = await world.miners(says(FACT, after=0.2), says(FACT, after=0.3))
    async with AsyncExitStack() as stack:
        processes, clients = [], []
        for n in range(3):
            port = free_port()
            started = process(world, *FLAGS, f"--querier.spool={world.spool / str(n)}", port=port)
            processes.append(await stack.enter_async_context(started))
            url = f"http://127.0.0.1:{port}"
            clients.append(await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20)))
        watch = Watch(clients)
        watching = asyncio.create_task(watch.run())
        stack.callback(watching.cancel)
        await wait_until(lambda: sum(watch.leading) == 1, timeout=60, why="one leads")
        first = watch.leading.index(True)
        await wait_until(lambda: _events(world, 4), why="it trains")
        usual = await rate(world)

        # Killed while its questions are with the miners: nobody ever counts those.
        asked = len(miners[1].asked)
        await wait_until(lambda: len(miners[1].asked) > asked, every=0.005)
        processes[first].kill()
        await processes[first].wait()
        await wait_until(lambda: sum(watch.leading) == 1 and not watch.leading[first], timeout=30)
        second = watch.leading.index(True)
        (third,) = {0, 1, 2} - {first, second}
        killed = await rate(world)

        # Stopped in the same place, for three times its lease; another leads by then.
        asked = len(miners[1].asked)
        await wait_until(lambda: len(miners[1].asked) > asked, every=0.005)
        processes[second].send_signal(signal.SIGSTOP)
        await watch.only(third)
        await asyncio.sleep(5.0)
        processes[second].send_signal(signal.SIGCONT)
        resumed = await rate(world)
        await watch.only(third)
        await asyncio.sleep(0.5)

        holder = await world.history.leader("trainer")
        told = (await clients[third].get("/training")).json()
        assert (told["leading"], told["leader"]) == (True, holder)
        assert watch.both == []
        events = await world.forwards()
    assert set(Counter(event.id for event in events).values()) == {1}
    # What the stopped one had asked is recorded late, and no miner is charged for its pause.
    assert {status for event in events for status in event.status.tolist()} == {0}
    assert min(killed, resumed) > usual / 3


async def _events(world: World, n: int) -> Any:
    return len(await scored(world)) >= n
