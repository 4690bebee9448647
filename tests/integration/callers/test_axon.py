"""Publishing the querier's axon on a real chain."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import websockets

from coremesh.errors import ChainUnavailable
from coremesh.metagraph import Metagraph, Neuron
from coremesh.settings import HttpSettings, QuerierSettings, load
from coremesh.wire.axon import Endpoint, NotPublished, publish_aside
from coremesh.wire.keys import KeyPair, keypair_from_uri
from coremesh.wire.wallets import load_keypair
from devnet.chain.testing import RunningChain, free_port, running_chain
from services.querier.publishing import endpoint_of
from tests.integration.callers.conftest import QUESTION
from tests.integration.querier.conftest import World
from tests.integration.querier.network import says
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningChain]:
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "runtime"))
    directory = tmp_path / "chain"
    directory.mkdir()
    with running_chain(directory, tempo=20, rate_limit=30) as running:
        yield running


@pytest.fixture
def validator(chain: RunningChain) -> KeyPair:
    return load_keypair(chain.wallets_dir, "validator", "default")


async def on_chain(chain: RunningChain, hotkey: str) -> tuple[int, int]:
    import bittensor as bt

    async with bt.Client(chain.url, fallback_endpoints=[], archive_endpoints=[]) as client:
        neurons = await client.read("neurons", netuid=1, lite=True)
    info = next(neuron.raw["axon_info"] for neuron in neurons if neuron.hotkey == hotkey)
    return int(info["ip"]), int(info["port"])


async def test_an_axon_is_written_once(chain: RunningChain, validator: KeyPair) -> None:
    async def publish(keypair: KeyPair, endpoint: Endpoint) -> bool:
        return await publish_aside(chain.url, (), 1, keypair, endpoint, deadline_s=30)

    here = Endpoint("127.9.9.9", 8091)
    assert await publish(validator, here)
    assert await on_chain(chain, str(validator.ss58_address)) == here.stored
    assert not await publish(validator, here)
    with pytest.raises(NotPublished, match="is not registered on subnet 1"):
        await publish(keypair_from_uri("//Nobody"), here)
    chain.stop()
    with pytest.raises(ChainUnavailable):
        await publish(validator, here)


async def test_a_chain_that_says_nothing_is_given_up_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        ticks = 0
        publishing = asyncio.create_task(
            publish_aside(
                f"ws://127.0.0.1:{silent.getsockname()[1]}",
                (),
                1,
                keypair_from_uri("//Nobody"),
                Endpoint("127.9.9.9", 1),
                deadline_s=1,
            )
        )
        while not publishing.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(ChainUnavailable):
            publishing.result()
        assert time.monotonic() - started < 30
        assert ticks > 10


async def test_a_node_that_answers_what_nobody_foresaw_counts_as_one_that_does_not() -> None:
    async def oddly(node: websockets.ServerConnection) -> None:
        async for asked in node:
            answer = {"jsonrpc": "2.0", "id": json.loads(asked)["id"], "result": "0x00"}
            await node.send(json.dumps(answer))

    async with websockets.serve(oddly, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ChainUnavailable, match="answers what nobody can read"):
            await publish_aside(
                url, (), 1, keypair_from_uri("//Nobody"), Endpoint("127.9.9.9", 1), deadline_s=20
            )


@pytest.mark.parametrize(
    ("querier", "host", "found"),
    [
        ({}, "127.0.0.1", None),
        ({}, "0.0.0.0", None),
        ({}, "203.0.113.5", Endpoint("203.0.113.5", 8080)),
        ({"axon-ip": "203.0.113.7"}, "0.0.0.0", Endpoint("203.0.113.7", 8080)),
        ({"axon-ip": "203.0.113.7", "axon-port": "9"}, "127.0.0.1", Endpoint("203.0.113.7", 9)),
        ({"axon-ip": "203.0.113.7", "axon-off": "true"}, "0.0.0.0", None),
    ],
)
def test_what_is_published(querier: dict[str, str], host: str, found: Endpoint | None) -> None:
    words = [f"--querier.{name}={value}" for name, value in querier.items()]
    settings = load([QuerierSettings, HttpSettings], [*words, f"--http.host={host}"])
    assert endpoint_of(settings[QuerierSettings], settings[HttpSettings], default_port=8080) == found


@asynccontextmanager
async def process(world: World, chain: RunningChain, port: int) -> AsyncIterator[httpx.AsyncClient]:
    environment = {
        **os.environ,
        "COREMESH_REDIS_URL": world.redis_url,
        "COREMESH_WALLET_PATH": str(chain.wallets_dir),
        "COREMESH_WALLET_NAME": "validator",
        "COREMESH_CHAIN_NETWORK": chain.url,
        "COREMESH_MESH_GATING_URL": world.services_url,
        "COREMESH_MESH_REWARD_URL": world.services_url,
        "COREMESH_QUERIER_ALLOW_LOOPBACK": "true",
        "COREMESH_QUERIER_SPOOL": str(world.spool),
        "COREMESH_QUERIER_AXON_IP": "127.9.9.9",
        "COREMESH_QUERIER_AXON_PORT": "4242",
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.querier", "--http.port", str(port), env=environment
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        started.kill()
        await started.wait()


async def test_a_querier_publishes_its_axon_once_it_is_a_validator(
    world: World, chain: RunningChain, validator: KeyPair
) -> None:
    own = str(validator.ss58_address)
    await world.miners(says(GOOD))
    known = await world.history.metagraph()
    assert known is not None

    def with_us(**fields: Any) -> Metagraph:
        me = Neuron(uid=0, hotkey=own, coldkey="5Cold0", **fields)
        return msgspec.structs.replace(known, neurons=(me, *known.neurons[1:]), hotkey=own)

    await world.publish(with_us(stake=5.0))
    before = await on_chain(chain, own)
    assert before != Endpoint("127.9.9.9", 4242).stored
    async with process(world, chain, free_port()) as client:

        async def serves() -> bool:
            try:
                answer = await client.post("/inference", json=QUESTION)
            except httpx.HTTPError:
                return False
            return answer.status_code == 200 and answer.json()["completion"] == GOOD

        await wait_until(serves, timeout=40)
        assert await on_chain(chain, own) == before
        await world.publish(with_us(stake=5000.0, permit=True))

        async def published() -> bool:
            return await on_chain(chain, own) == Endpoint("127.9.9.9", 4242).stored

        await wait_until(published, timeout=40, every=0.5)
        assert await serves()
