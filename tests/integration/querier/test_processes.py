"""The querier as a process: start, SIGTERM, kill -9, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from coremesh.errors import BadSetting
from coremesh.history.redis import RedisHistory
from devnet.chain.testing import free_port
from services.querier.__main__ import main
from tests.integration.querier.conftest import World, ask
from tests.integration.querier.network import held, says
from tests.redis_server import RedisServer
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
BETTER = "Because air molecules scatter short wavelengths far more strongly: Rayleigh scattering."


@asynccontextmanager
async def process(world: World, *flags: str, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        "COREMESH_REDIS_URL": world.redis_url,
        "COREMESH_WALLET_PATH": str(world.wallet_path),
        "COREMESH_WALLET_NAME": "validator",
        "COREMESH_MESH_GATING_URL": world.services_url,
        "COREMESH_MESH_REWARD_URL": world.services_url,
        "COREMESH_MESH_WEIGHTS_URL": world.services_url,
        "COREMESH_QUERIER_ALLOW_LOOPBACK": "true",
        "COREMESH_QUERIER_SPOOL": str(world.spool),
        "COREMESH_QUERIER_GRACE_S": "0",
        "COREMESH_TRAINER_LEASE_S": "1",
        "COREMESH_TRAINER_SOURCE": "bundled",
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.querier", "--http.port", str(port), *flags),
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        # What it wrote is read, so that a full pipe never holds it up.
        await started.communicate()


async def _ready(client: httpx.AsyncClient) -> Any:
    try:
        response = await client.get("/readyz")
    except httpx.HTTPError:
        return None
    return response.status_code == 200


async def test_sigterm_lets_stragglers_into_the_history(world: World) -> None:
    gate = asyncio.Event()
    miners = await world.miners(says(GOOD), held(gate, BETTER))
    port = free_port()
    async with (
        process(world, port=port) as querier,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        await wait_until(lambda: _ready(client))
        event_id = (await ask(client, wait_for=1, timeout=20)).json()["event_id"]
        await wait_until(lambda: miners[1].asked)
        querier.send_signal(signal.SIGTERM)
        gate.set()
        assert await asyncio.wait_for(querier.wait(), 20) == 0
    event = await world.event(event_id)
    assert event.rewards.tolist() == pytest.approx([len(GOOD) / 100, len(BETTER) / 100])


async def test_a_querier_killed_while_redis_is_away_loses_no_recorded_event(
    world: World, own_redis: RedisServer
) -> None:
    first = world.history
    world.history, world.redis_url = RedisHistory(own_redis.url, 1), own_redis.url
    try:
        await world.miners(says(GOOD))
        port = free_port()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            async with process(world, port=port) as querier:
                await wait_until(lambda: _ready(client))
                own_redis.kill()
                ids = [(await ask(client)).json()["event_id"] for _ in range(3)]
                await wait_until(lambda: len(list(world.spool.rglob("*.event"))) == 3)
                querier.kill()
                await querier.wait()
            own_redis.start()
            async with process(world, port=port):
                for event_id in ids:
                    assert (await world.event(event_id)).scored
                await wait_until(lambda: not list(world.spool.rglob("*.event")))
        assert sorted(event.id for event in await world.forwards()) == sorted(ids)
    finally:
        await world.history.close()
        world.history = first


async def test_a_killed_trainer_is_replaced_and_counts_nothing_twice(world: World) -> None:
    await world.miners(says(GOOD))
    ports = [free_port(), free_port()]
    flags = ("--role", "trainer", "--trainer.pause-s", "0.02")
    async with (
        process(world, *flags, port=ports[0]) as first,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[0]}", timeout=20) as one,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[1]}", timeout=20) as two,
    ):
        await wait_until(lambda: _ready(one))
        await wait_until(lambda: _leads(one))
        async with process(world, *flags, port=ports[1]):
            await wait_until(lambda: _ready(two))
            assert not await _leads(two)
            await wait_until(world.forwards)
            first.kill()
            await first.wait()
            before = len(await world.forwards())
            await wait_until(lambda: _leads(two))
            await wait_until(lambda: _more_than(world, before + 3))
    ids = [event.id for event in await world.forwards()]
    assert len(set(ids)) == len(ids)


async def _leads(client: httpx.AsyncClient) -> bool:
    return (await client.get("/training")).json()["leading"]


async def _more_than(world: World, count: int) -> bool:
    return len(await world.forwards()) > count


async def test_a_missing_hotkey_is_named_and_ends_with_code_2(world: World) -> None:
    async with process(world, "--wallet.hotkey", "gone", port=free_port()) as querier:
        _, stderr = await asyncio.wait_for(querier.communicate(), 30)
    assert querier.returncode == 2
    assert "there is no hotkey file" in stderr.decode()
    assert "Traceback" not in stderr.decode()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--querier.inference-topk", "0"], "--querier.inference_topk: got '0'"),
        (["--role", "king"], "--querier.role: got 'king'; input should be 'api' or 'trainer'"),
        (["--role=trainer", "--trainer.topk", "many"], "--trainer.topk: got 'many'"),
    ],
)
def test_a_bad_setting_is_named_and_ends_with_code_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    assert said in capsys.readouterr().err


async def test_a_public_address_needs_keys(world: World) -> None:
    with pytest.raises(BadSetting, match=r"0\.0\.0\.0"):
        await world.querier(http={"host": "0.0.0.0"}, wait=False)
    for querier in ({"api_keys": ["k"]}, {"allow_open": True}, {"role": "trainer"}):
        await world.querier(querier=querier, http={"host": "0.0.0.0"}, wait=False)
