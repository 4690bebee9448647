"""A replica dies, or stands still, with places of an API key in its hands."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from datetime import timedelta

import httpx
import redis.asyncio

from coremesh.history.callers import Changes, RedisCallers
from services.querier.admission import HELD, Admission
from services.querier.caller import Caller
from tests.integration.callers.conftest import QUESTION, bearer
from tests.integration.querier.conftest import World
from tests.integration.querier.network import held
from tests.integration.querier.test_processes import free_port, process
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."


async def ask(client: httpx.AsyncClient, name: str, key: str) -> int:
    body = {**QUESTION, "messages": [{"role": "user", "content": f"{name} asks why"}], "timeout": 55}
    return (await client.post("/inference", json=body, headers=bearer(key))).status_code


async def test_places_of_a_lost_replica_come_back_by_themselves_and_never_too_many(world: World) -> None:
    gate = asyncio.Event()
    miners = await world.miners(held(gate, GOOD))
    store = RedisCallers(world.redis_url, 1)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        processes, clients = [], []
        for _ in range(3):
            port = free_port()
            processes.append(
                await stack.enter_async_context(process(world, "--querier.require-key", "true", port=port))
            )
            url = f"http://127.0.0.1:{port}"
            clients.append(await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=90)))
        for client in clients:
            await wait_until(lambda client=client: _ready(client), timeout=60)
        killed, stopped, left = clients
        limit = Changes(per_minute=0, concurrent=2)
        keys = {name: (await store.create(name, limit))[0] for name in ("killed", "stopped")}
        asked = [
            asyncio.create_task(ask(client, name, keys[name]))
            for client, name in ((killed, "killed"), (stopped, "stopped"))
            for _ in range(2)
        ]
        await wait_until(lambda: len(miners[0].asked) == 4, why="all places are taken")
        processes[0].kill()
        processes[1].send_signal(signal.SIGSTOP)
        lost = time.monotonic()
        freed: dict[str, float] = {}
        successors: dict[str, list[asyncio.Task[int]]] = {name: [] for name in keys}

        async def insist(name: str) -> None:
            """Ask again and again, as an impatient caller does, until the places are taken anew."""
            while len(successors[name]) < 2:
                trying = asyncio.create_task(ask(left, name, keys[name]))
                done, _ = await asyncio.wait({trying}, timeout=0.5)
                if done:
                    assert trying.result() == 429
                    await asyncio.sleep(0.25)
                    continue
                freed.setdefault(name, time.monotonic() - lost)
                successors[name].append(trying)

        await asyncio.gather(*(insist(name) for name in keys))
        for name, after in freed.items():
            # Not before their time: they could have been alive, and then there would have been four.
            assert HELD.total_seconds() / 2 < after < HELD.total_seconds() + 2, (name, after)
            assert await ask(left, name, keys[name]) == 429

        # The other one goes on, with two requests that nobody counted while it stood still: they count again.
        processes[1].send_signal(signal.SIGCONT)
        places = store.keys.held(str(await _id(store, "stopped")))
        await wait_until(lambda: _count(world, places, 4), why="all that is being served is counted")
        assert [await ask(client, "stopped", keys["stopped"]) for client in (stopped, left)] == [429, 429]
        gate.set()
        for name in keys:
            assert [await task for task in successors[name]] == [200, 200]
        # Its own callers have waited for longer than a caller ever waits in vain: an answer, or a deadline's error.
        assert [await task for task in asked[2:]] == [200, 200]

        async def let_in() -> bool:
            return [await ask(client, "stopped", keys["stopped"]) for client in (stopped, left)] == [200, 200]

        await wait_until(let_in, why="the places are free again")
        await wait_until(lambda: _count(world, places, 0))
        for task in asked[:2]:
            task.exception()


class Overtaken(RedisCallers):
    """A store whose places are held on to only once one has been given back."""

    def __init__(self, url: str) -> None:
        super().__init__(url, 1)
        self._given_back = asyncio.Event()

    async def hold(self, caller_id: str, tickets: list[str], held: timedelta) -> None:
        await self._given_back.wait()
        await super().hold(caller_id, tickets, held)

    async def release(self, caller_id: str, ticket: str) -> None:
        await super().release(caller_id, ticket)
        self._given_back.set()


async def test_a_place_given_back_while_it_is_held_on_to_stays_free(redis_url: str) -> None:
    store = Overtaken(redis_url)
    admission = Admission(store)
    caller = Caller(id="hotkey:5Ada", concurrent=1)
    try:
        ticket = await admission.enter(caller)
        await asyncio.gather(admission.hold_once(), admission.leave(caller, ticket))
        await admission.enter(caller)
    finally:
        await store.close()


async def _id(store: RedisCallers, name: str) -> str:
    return next(record.id for record in await store.records() if record.name == name)


async def _count(world: World, places: str, wanted: int) -> bool:
    async with redis.asyncio.Redis.from_url(world.redis_url) as raw:
        return await raw.zcard(places) == wanted


async def _ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.HTTPError:
        return False
