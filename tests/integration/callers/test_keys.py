"""API keys over HTTP, on two replicas behind one Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse

from coremesh.errors import BadSetting
from coremesh.events import Flag
from coremesh.history.callers import Changes, RedisCallers
from coremesh.history.redis import RedisHistory
from tests.integration.callers.conftest import QUESTION, bearer
from tests.integration.querier.conftest import World
from tests.integration.querier.network import held, says
from tests.redis_server import RedisServer
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
CLOSED = {"require_key": True}


async def ask(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.post("/inference", json=QUESTION, headers=bearer(key))


async def two(world: World, **querier: object) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
    """Two replicas with one Redis, each with a spool of its own."""
    made = []
    for name in ("one", "two"):
        settings = {**CLOSED, "spool": world.spool / name, **querier}
        client = await world.querier(querier=settings, wait=False)

        async def knows(client: httpx.AsyncClient = client) -> bool:
            return (await client.get("/readyz")).json()["checks"]["metagraph"] == "ok"

        await wait_until(knows)
        made.append(client)
    return made[0], made[1]


async def test_a_key_opens_both_replicas_until_it_is_revoked(world: World, store: RedisCallers) -> None:
    await world.miners(says(GOOD))
    one, other = await two(world)
    key, record = await store.create("ada")
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    for client in (one, other):
        assert (await ask(client, key)).json()["completion"] == GOOD
        assert (await client.get("/metagraph", headers=bearer(key))).status_code == 200
        assert (await client.get("/v1/models", headers=bearer(key))).status_code == 200
        for bad in (wrong, "cm_000000000000_x", "sk-other"):
            refused = await ask(client, bad)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert (await client.get("/metagraph")).status_code == 401
    await store.revoke(record.id)
    for client in (one, other):
        refused = await ask(client, key)
        assert (refused.status_code, refused.json()["message"]) == (401, "this API key has been revoked")


async def test_the_rate_of_a_key_is_one_for_both_replicas(world: World, store: RedisCallers) -> None:
    await world.miners(says(GOOD))
    clients = await two(world)
    key, record = await store.create("ada", Changes(per_minute=5, concurrent=0))
    friend, _ = await store.create("friend")
    answers = await asyncio.gather(*(ask(clients[n % 2], key) for n in range(14)))
    assert Counter(answer.status_code for answer in answers) == {200: 5, 429: 9}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["message"] == "this caller may ask 5 times a minute"
    assert 50 <= int(refused.headers["retry-after"]) <= 60
    # Reading costs nothing, others are not affected, and a higher limit is in force at once.
    assert (await clients[0].get("/metagraph", headers=bearer(key))).status_code == 200
    assert (await ask(clients[0], friend)).status_code == 200
    await store.change(record.id, Changes(per_minute=6))
    assert [(await ask(client, key)).status_code for client in clients] == [200, 429]
    chat = {"model": "coremesh", **QUESTION}
    refused = await clients[1].post("/v1/chat/completions", json=chat, headers=bearer(key))
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    # Both recorded into one history.
    await wait_until(lambda: _count(world, 7))


async def _count(world: World, wanted: int) -> bool:
    return len(await world.forwards()) == wanted


async def test_requests_at_once_are_counted_over_both_replicas(world: World, store: RedisCallers) -> None:
    gate = asyncio.Event()
    miners = await world.miners(held(gate, GOOD))
    one, other = await two(world)
    key, _ = await store.create("ada", Changes(concurrent=2, per_minute=0))
    running = [asyncio.create_task(ask(client, key)) for client in (one, other)]
    await wait_until(lambda: len(miners[0].asked) == 2)
    for client in (one, other):
        refused = await ask(client, key)
        assert refused.status_code == 429
        assert refused.json()["message"] == "2 requests of this caller are being served already"
        assert int(refused.headers["retry-after"]) >= 1
    gate.set()
    assert [(await task).status_code for task in running] == [200, 200]
    # The places are free again, after errors too.
    for body in ({"messages": []}, {"messages": [{"role": "user", "content": " "}]}, QUESTION, QUESTION):
        answer = await other.post("/inference", json=body, headers=bearer(key))
        assert answer.status_code == (200 if body is QUESTION else 400)


async def test_a_stream_holds_its_place_until_its_end(world: World, store: RedisCallers) -> None:
    gate = asyncio.Event()

    async def speaks(body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str]:
            yield 'data: {"delta": "Because air scatters "}\n\n'
            await gate.wait()
            yield 'data: {"delta": "blue light most."}\n\ndata: [DONE]\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")

    await world.miners(speaks)
    one, other = await two(world)
    world.services.filtering = False
    key, _ = await store.create("ada", Changes(concurrent=1))
    chat = {"model": "coremesh", "stream": True, **QUESTION}
    async with one.stream("POST", "/v1/chat/completions", json=chat, headers=bearer(key)) as stream:
        assert stream.status_code == 200
        assert (await ask(other, key)).status_code == 429
        gate.set()
        assert "[DONE]" in (await stream.aread()).decode()

    async def free() -> bool:
        return (await ask(other, key)).status_code == 200

    await wait_until(free)


async def test_a_key_may_opt_out_of_scores_and_of_leaving_text(world: World, store: RedisCallers) -> None:
    await world.miners(says(GOOD))
    one, _ = await two(world)
    for changes, flags in (
        (Changes(), Flag.SCORED),
        (Changes(scored=False), Flag.NONE),
        (Changes(private=True), Flag.SCORED | Flag.PRIVATE),
        (Changes(private=True, scored=False), Flag.PRIVATE),
    ):
        key, _ = await store.create("ada", changes)
        event = await world.event((await ask(one, key)).json()["event_id"])
        assert event.flags == flags
        assert bool(event.messages) == (not changes.private)
        assert (await world.history.transcript(event.id) is None) == bool(changes.private)


async def test_while_redis_is_away_known_keys_count_for_a_while(world: World, own_redis: RedisServer) -> None:
    first = world.history
    world.history, world.redis_url = RedisHistory(own_redis.url, 1), own_redis.url
    store = RedisCallers(own_redis.url, 1)
    try:
        await world.miners(says(GOOD))
        one, other = await two(world)
        known, _ = await store.create("known", Changes(per_minute=4, concurrent=0))
        unknown, _ = await store.create("unknown")
        assert (await ask(one, known)).status_code == 200
        own_redis.kill()
        # Its limit goes on from what this replica has let in; the other replica never saw the key.
        statuses = [(await ask(one, known)).status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        for client, key in ((one, unknown), (other, known)):
            refused = await ask(client, key)
            assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
        own_redis.start()

        async def back() -> bool:
            return (await ask(one, unknown)).status_code == 200

        await wait_until(back)
    finally:
        await world.queriers.aclose()
        await store.close()
        await world.history.close()
        world.history = first


async def test_a_known_key_is_forgotten_in_time(world: World, own_redis: RedisServer) -> None:
    first = world.history
    world.history, world.redis_url = RedisHistory(own_redis.url, 1), own_redis.url
    store = RedisCallers(own_redis.url, 1)
    try:
        await world.miners(says(GOOD))
        one, _ = await two(world, key_cache_s=1.5)
        key, _ = await store.create("known")
        assert (await ask(one, key)).status_code == 200
        own_redis.kill()

        async def refused() -> bool:
            return (await ask(one, key)).status_code == 503

        await wait_until(refused, every=0.2)
        own_redis.start()
    finally:
        await world.queriers.aclose()
        await store.close()
        await world.history.close()
        world.history = first


async def test_a_public_address_may_rely_on_keys_made_later(world: World) -> None:
    with pytest.raises(BadSetting) as refusal:
        await world.querier(http={"host": "0.0.0.0"}, wait=False)
    assert "coremesh keys create" in refusal.value.remedy
    await world.querier(querier=CLOSED, http={"host": "0.0.0.0"}, wait=False)
