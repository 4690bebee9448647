"""Two querier processes behind one Redis: one set of keys, one count of every limit, one history."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from coremesh.history.callers import Changes, RedisCallers
from coremesh.history.redis import RedisHistory
from tests.integration.callers.conftest import QUESTION, Neuronal, bearer, register
from tests.integration.querier.conftest import World, gathered
from tests.integration.querier.network import says
from tests.integration.querier.test_processes import free_port, process
from tests.redis_server import RedisServer
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
BETTER = "Because air molecules scatter short wavelengths far more strongly: Rayleigh scattering."


@asynccontextmanager
async def replicas(world: World, *flags: str) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Two processes, ready; clients of them."""
    async with AsyncExitStack() as stack:
        clients = []
        for port in (free_port(), free_port()):
            await stack.enter_async_context(process(world, *flags, port=port))
            url = f"http://127.0.0.1:{port}"
            clients.append(await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30)))
        for client in clients:

            async def ready(client: httpx.AsyncClient = client) -> bool:
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await wait_until(ready, timeout=60)
        yield clients[0], clients[1]


async def ask(client: httpx.AsyncClient, key: str = "") -> httpx.Response:
    return await client.post("/inference", json=QUESTION, headers=bearer(key) if key else {})


async def test_processes_share_keys_limits_and_nonces(world: World) -> None:
    gate = asyncio.Event()
    gate.set()

    async def behave(body: object) -> str:
        await gate.wait()
        return GOOD

    miners = await world.miners(behave)
    ada = Neuronal("ada")
    await register(world, miners, [ada])
    store = RedisCallers(world.redis_url, 1)
    try:
        async with replicas(world, "--querier.require-key=true") as both:
            # A key that was made a moment ago opens both, with one rate for both.
            key, record = await store.create("rated", Changes(per_minute=5, concurrent=0))
            answers = await gathered(*(ask(both[n % 2], key) for n in range(12)))
            assert Counter(answer.status_code for answer in answers) == {200: 5, 429: 7}
            assert all(1 <= int(a.headers["retry-after"]) <= 60 for a in answers if a.status_code == 429)
            assert [(await ask(client, key)).json()["code"] for client in both] == ["busy", "busy"]

            # What is changed, here or there, is in force for the next request to either.
            await store.change(record.id, Changes(per_minute=0))
            assert [(await ask(client, key)).status_code for client in both] == [200, 200]
            await store.revoke(record.id)
            for client in both:
                refused = await ask(client, key)
                assert (refused.status_code, refused.json()["message"]) == (
                    401,
                    "this API key has been revoked",
                )

            # Two places at once, wherever they are taken; a place that is given back is free for both.
            placed, _ = await store.create("placed", Changes(per_minute=0, concurrent=2))
            gate.clear()
            before = len(miners[0].asked)
            served = [asyncio.create_task(ask(client, placed)) for client in both]
            await wait_until(lambda: len(miners[0].asked) == before + 2, why="both are being served")
            assert [(await ask(client, placed)).status_code for client in both] == [429, 429]
            gate.set()
            assert [(await one).status_code for one in served] == [200, 200]

            async def let_in() -> bool:
                return [a.status_code for a in await gathered(*(ask(c, placed) for c in both))] == [200, 200]

            await wait_until(let_in, why="both places are free again")

            # A signed request is good for one of the two.
            signed = ada.request()
            assert [(await client.post(**signed)).status_code for client in both] == [200, 401]
    finally:
        await store.close()


async def test_processes_append_to_one_history_and_lose_nothing_while_redis_is_away(
    world: World, own_redis: RedisServer
) -> None:
    first = world.history
    world.history, world.redis_url = RedisHistory(own_redis.url, 1), own_redis.url
    try:
        await world.miners(says(GOOD), says(BETTER))
        async with replicas(world) as both:
            ids = [a.json()["event_id"] for a in await gathered(*(ask(both[n % 2]) for n in range(20)))]
            for event_id in ids:
                assert (await world.event(event_id)).scored
            own_redis.kill()
            away = [a.json()["event_id"] for a in await gathered(*(ask(both[n % 2]) for n in range(10)))]
            spooled = await wait_until(lambda: _spooled(world, 10), why="all ten are on the disk")
            assert Counter(spooled.values()) == {"0": 5, "1": 5}, "each process has a place of its own"
            own_redis.start()
            for event_id in away:
                assert (await world.event(event_id)).scored
            await wait_until(lambda: not list(world.spool.rglob("*.event")), why="the spools are empty")
            assert sorted(event.id for event in await world.forwards()) == sorted(ids + away)

            async def told(client: httpx.AsyncClient) -> list[str]:
                answer = await client.get("/history", params={"count": 100, "texts": False})
                return [row["event_id"] for row in answer.json().get("events", [])]

            async def alike() -> bool:
                one, other = await gathered(*(told(client) for client in both))
                return one == other and sorted(one) == sorted(ids + away)

            await wait_until(alike, why="both tell the same history")
    finally:
        await world.history.close()
        world.history = first


def _spooled(world: World, count: int) -> dict[str, str] | None:
    """The place of each spooled event, once there are ``count``."""
    found = {path.name: path.parent.name for path in world.spool.rglob("*.event")}
    return found if len(found) == count else None
