"""Hotkeys that sign, as on the original's axon."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from coremesh.contracts import ChatMessage
from coremesh.metagraph import Neuron
from coremesh.settings import QuerierSettings, load
from coremesh.wire.adapters import make_adapter
from coremesh.wire.btauth import Signer
from coremesh.wire.status import Status
from services.querier.fanout import MinerFanout
from tests.integration.callers.conftest import BODY, OWN, QUESTION, Neuronal, register
from tests.integration.querier.conftest import World
from tests.integration.querier.network import VALIDATOR, Miner, held, says
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
ALICE, BOB, EVE = Neuronal("alice"), Neuronal("bob"), Neuronal("eve")


async def serve(
    world: World,
    miners: list[Miner],
    callers: list[Neuronal],
    delegated: dict[str, float] | None = None,
    **querier: Any,
) -> httpx.AsyncClient:
    await register(world, miners, callers, delegated)
    client = await world.querier(querier={"require_key": True, **querier}, wait=False)

    async def knows() -> bool:
        return (await client.get("/readyz")).json()["checks"]["metagraph"] == "ok"

    await wait_until(knows)
    return client


async def test_a_registered_hotkey_is_answered_as_a_miner_would(world: World) -> None:
    miners = await world.miners(says(GOOD))
    client = await serve(world, miners, [ALICE])
    answer = await ALICE.ask(client)
    assert answer.status_code == 200
    body = answer.json()
    event = await world.event(body.pop("event_id"))
    assert body == {"completion": GOOD, "uid": 1, "hotkey": miners[0].hotkey, "degraded": []}
    assert event.kind == "inference"
    assert (await ALICE.ask(client, "/inference", QUESTION)).json()["completion"] == GOOD
    chat = await ALICE.ask(client, "/v1/chat/completions?x=1", {"model": "coremesh", **QUESTION})
    assert chat.json()["choices"][0]["message"]["content"] == GOOD


@pytest.mark.parametrize(
    "path", ["/miners", "/history", "/dashboard/api/leaderboard", "/dashboard/api/miners/1/explanation"]
)
async def test_what_a_hotkey_may_read_takes_its_nonce_once(world: World, path: str) -> None:
    client = await serve(world, await world.miners(says(GOOD)), [ALICE])
    headers = ALICE.signer.headers("GET", path, b"", OWN)
    assert (await client.get(path, headers=headers)).status_code == 200
    assert (await client.get(path)).status_code == 401 or path.endswith("leaderboard")


async def test_the_querier_as_a_miner_of_another_querier(world: World) -> None:
    miners = await world.miners(says(GOOD))
    client = await serve(world, miners, [ALICE])
    peer = Neuron(
        uid=0, hotkey=OWN, coldkey="5C", ip=str(client.base_url.host), port=client.base_url.port or 0
    )
    settings = load([QuerierSettings], ["--querier.allow-loopback=true"])[QuerierSettings]
    async with MinerFanout(make_adapter("btauth", ALICE.signer), settings, own_hotkey=ALICE.hotkey) as fanout:
        answers = [
            answer
            async for answer in fanout.ask(
                [peer], (ChatMessage(role="user", content="Why is the sky blue?"),), 10.0
            )
        ]
    assert [(answer.status, answer.completion) for answer in answers] == [(Status.OK, GOOD)]


async def test_what_is_refused(world: World) -> None:
    miners = await world.miners(says(GOOD))
    client = await serve(world, miners, [ALICE, BOB], hotkey_blacklist=[BOB.hotkey])

    async def refused(request: dict[str, Any]) -> tuple[int, str]:
        answer = await client.post(**request)
        return answer.status_code, answer.json()["code"]

    once = ALICE.request()
    assert (await client.post(**once)).status_code == 200
    assert await refused(once) == (401, "replayed_request")
    assert await refused({**ALICE.request(), "content": b'{"roles":["user"],"messages":["other"]}'}) == (
        401,
        "bad_signature",
    )
    assert await refused({**ALICE.request(), "url": "/inference"}) == (401, "bad_signature")
    assert await refused(ALICE.request(receiver=BOB.hotkey)) == (401, "wrong_receiver")
    assert await refused(ALICE.request(nonce_ns=time.time_ns() - 20 * 10**9)) == (401, "stale_request")
    assert await refused(BOB.request()) == (403, "forbidden")
    assert await refused(EVE.request()) == (403, "forbidden")
    own = Neuronal("own")
    own.signer = Signer(VALIDATOR)
    assert await refused(own.request()) == (403, "forbidden")
    # A hotkey gets an answer, not an operator's powers.
    assert await refused(ALICE.request(body={**BODY, "train_network": True})) == (400, "bad_request")
    # A wrong signature is not passed over for the sake of something else.
    half = {**ALICE.request(), "headers": {"x-bittensor-hotkey": ALICE.hotkey, "authorization": "Bearer x"}}
    assert (await client.post("/inference", json=QUESTION, headers=half["headers"])).status_code == 401
    assert len(miners[0].asked) == 1


@pytest.mark.parametrize(("taken", "status"), [("any", 200), ("registered", 403), ("off", 403)])
async def test_who_signs_is_a_setting(world: World, taken: str, status: int) -> None:
    miners = await world.miners(says(GOOD))
    client = await serve(world, miners, [ALICE], hotkey_callers=taken)
    assert (await EVE.ask(client)).status_code == status
    assert (await ALICE.ask(client)).status_code == (403 if taken == "off" else 200)


async def test_replicas_share_nonces_and_limits(world: World) -> None:
    miners = await world.miners(says(GOOD))
    one = await serve(world, miners, [ALICE, BOB], hotkey_per_minute=3, spool=world.spool / "one")
    other = await serve(world, miners, [ALICE, BOB], hotkey_per_minute=3, spool=world.spool / "other")
    request = ALICE.request()
    assert (await one.post(**request)).status_code == 200
    assert (await other.post(**request)).json()["code"] == "replayed_request"
    statuses = [(await ALICE.ask(client)).status_code for client in (other, one, other, one)]
    assert statuses == [200, 200, 429, 429]
    assert (await BOB.ask(other)).status_code == 200


async def test_delegated_stake_goes_first_when_busy(world: World) -> None:
    gate = asyncio.Event()
    miners = await world.miners(held(gate, GOOD))
    holder, stranger = Neuronal("holder"), Neuronal("stranger")
    client = await serve(
        world,
        miners,
        [holder, stranger, ALICE, BOB],
        {"alice": 10.0, "bob": 2000.0},
        max_concurrent=1,
        queue_length=3,
        queue_wait_s=20,
    )

    def question(name: str) -> dict[str, Any]:
        return {"roles": ["user"], "messages": [f"What would {name} ask?"]}

    tasks = [asyncio.create_task(holder.ask(client, body=question("holder")))]
    await wait_until(lambda: miners[0].asked)
    for n, caller in enumerate((stranger, ALICE, BOB), start=1):
        tasks.append(asyncio.create_task(caller.ask(client, body=question(caller.name))))

        async def queued(n: int = n) -> bool:
            return f"coremesh_querier_callers_waiting {float(n)}" in (await client.get("/metrics")).text

        await wait_until(queued)
    # The queue is full: another stranger is told to come back.
    late = Neuronal("holder")
    refused = await late.ask(client, body=question("late"))
    assert refused.status_code == 429
    assert refused.json()["message"] == "1 requests are being served already and 3 wait"
    assert int(refused.headers["retry-after"]) == 20
    gate.set()
    assert [(await task).status_code for task in tasks] == [200] * 4
    assert [asked["messages"][0].split()[2] for asked in miners[0].asked] == [
        "holder",
        "bob",
        "alice",
        "stranger",
    ]
