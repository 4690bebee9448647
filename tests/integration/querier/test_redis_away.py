"""Redis dies, or hangs, under every way to ask a querier process: answers, or a clear 503, and each event once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from coremesh.history.callers import Changes, RedisCallers
from coremesh.history.redis import RedisHistory
from tests.integration.callers.conftest import QUESTION, Neuronal, bearer, register
from tests.integration.querier.conftest import World
from tests.integration.querier.network import says
from tests.integration.querier.test_processes import free_port, process
from tests.redis_server import RedisServer
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
CHAT = {"model": "coremesh", **QUESTION}


class Users:
    """A caller with a key that the querier knows, one whose key it never saw, and a signed hotkey."""

    def __init__(self, client: httpx.AsyncClient, known: str, unknown: str) -> None:
        self.client = client
        self.known = known
        self.unknown = unknown
        self.ada = Neuronal("ada")
        self.events: list[str] = []

    async def ask(self, how: str) -> httpx.Response:
        headers = bearer(self.unknown if how == "unknown" else self.known)
        if how == "signed":
            return await self.ada.ask(self.client)
        if how in ("chat", "stream"):
            body = {**CHAT, "stream": how == "stream"}
            answer = await self.client.post("/v1/chat/completions", json=body, headers=headers)
            if answer.status_code == 200:
                self.events.append(answer.headers["x-coremesh-event"])
            return answer
        answer = await self.client.post("/inference", json=QUESTION, headers=headers)
        if answer.status_code == 200:
            self.events.append(answer.json()["event_id"])
        return answer

    async def ask_all(self, *ways: str) -> dict[str, httpx.Response]:
        answers = await asyncio.gather(*(self.ask(how) for how in ways))
        return dict(zip(ways, answers, strict=True))


@asynccontextmanager
async def served(world: World, server: RedisServer) -> AsyncIterator[Users]:
    """A querier process on a Redis of its own."""
    first = world.history
    world.history, world.redis_url = RedisHistory(server.url, 1), server.url
    store = RedisCallers(server.url, 1)
    port = free_port()
    # Eight forwards fit in at once: events that waited for Redis would soon leave room for none.
    flags = ("--querier.require-key", "true", "--querier.max-concurrent", "2")
    try:
        world.services.filtering = False
        miners = await world.miners(says(GOOD))
        await register(world, miners, [Neuronal("ada")])
        limits = Changes(per_minute=0, concurrent=50)
        keys = [(await store.create(name, limits))[0] for name in ("known", "unknown")]
        async with (
            process(world, *flags, port=port),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
        ):
            await wait_until(lambda: _ready(client), timeout=60)
            yield Users(client, *keys)
    finally:
        await store.close()
        await world.history.close()
        world.history = first


async def _ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hanging"])
async def test_users_are_answered_or_refused_clearly_and_each_event_is_kept_once(
    world: World, own_redis: RedisServer, hangs: bool
) -> None:
    ways = ("inference", "chat", "stream", "signed")
    async with served(world, own_redis) as users:
        assert [a.status_code for a in (await users.ask_all(*ways)).values()] == [200] * 4
        if hangs:
            own_redis.pause()
        else:
            own_redis.kill()
        for _ in range(6):
            answers = await users.ask_all(*ways, "unknown")
            for how in ("inference", "chat", "stream"):
                assert answers[how].status_code == 200, (how, answers[how].text)
            assert "[DONE]" in answers["stream"].text
            for how in ("signed", "unknown"):
                assert (answers[how].status_code, answers[how].json()["code"]) == (503, "history_unavailable")
                assert answers[how].json()["remedy"]
        refused = await users.client.get("/history", headers=bearer(users.known))
        assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
        chat = await users.client.post("/v1/chat/completions", json=CHAT, headers=bearer(users.unknown))
        assert (chat.status_code, chat.json()["error"]["type"]) == (503, "server_error")
        if hangs:
            own_redis.resume()
        else:
            own_redis.start()

        async def back() -> bool:
            return {a.status_code for a in (await users.ask_all(*ways, "unknown")).values()} == {200}

        await wait_until(back, every=0.2)
        await wait_until(lambda: not list(world.spool.rglob("*.event")), why="the spool is empty")

        async def all_there() -> bool:
            kept = Counter(event.id for event in await world.forwards())
            assert set(kept.values()) == {1}
            return set(users.events) <= set(kept)

        await wait_until(all_there)
