"""Callers that close their connection."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from coremesh.history.callers import Changes, RedisCallers
from tests.integration.callers.conftest import bearer
from tests.integration.querier.conftest import World, ask
from tests.integration.querier.network import held
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
QUESTION = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}


async def waiting(client: httpx.AsyncClient) -> float:
    """Callers in the queue, as the metrics tell."""
    lines = (await client.get("/metrics")).text.splitlines()
    return float(
        next(line for line in lines if line.startswith("coremesh_querier_callers_waiting ")).split()[1]
    )


async def call(client: httpx.AsyncClient, path: str, key: str) -> asyncio.StreamWriter:
    """Send a question over a connection of its own, and do not wait for the answer."""
    _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    body = json.dumps(QUESTION).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: querier\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    return writer


@pytest.mark.parametrize("path", ["/inference", "/v1/chat/completions"])
async def test_a_queued_caller_that_hangs_up_gives_all_its_places_back_at_once(
    world: World, path: str
) -> None:
    gate = asyncio.Event()
    miners = await world.miners(held(gate, GOOD))
    client = await world.querier(
        querier={"max_concurrent": 1, "queue_length": 1, "queue_wait_s": 50, "inference_timeout_s": 50}
    )
    client.timeout = httpx.Timeout(60)
    store = RedisCallers(world.redis_url, 1)
    try:
        key, _ = await store.create("ada", Changes(per_minute=0, concurrent=1))
        served = asyncio.create_task(ask(client))
        await wait_until(lambda: miners[0].asked)
        quitter = await call(client, path, key)
        await wait_until(lambda: _equals(client, 1), why="it queues")
        full = await ask(client)
        assert (full.status_code, full.json()["code"]) == (429, "busy")
        quitter.close()
        await wait_until(lambda: _equals(client, 0), why="its place in the queue is free")

        # Its key's one place is free too: the next call with it queues, instead of being one too many.
        next_one = asyncio.create_task(client.post(path, json=QUESTION, headers=bearer(key)))
        await wait_until(lambda: _equals(client, 1), why="the next one queues")
        gate.set()
        assert [(await one).status_code for one in (served, next_one)] == [200, 200]
        assert len(miners[0].asked) == 2, "nothing was asked for the one that hung up"
    finally:
        await store.close()


async def _equals(client: httpx.AsyncClient, count: int) -> bool:
    return await waiting(client) == count
