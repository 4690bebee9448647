"""``top_k: "auto"`` from a user's request to the miners: a querier, and the gating service as a process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest

from coremesh.events import Flag, Message, forward_event
from coremesh.service import Health, Loops
from coremesh.settings import MeshSettings
from coremesh.types import new_event_id
from devnet.chain.testing import free_port
from services.querier.app import create_app
from tests.integration.querier.conftest import World, ask, wallet_path, world
from tests.integration.querier.network import Miner, says
from tests.wait import wait_until

__all__ = ["wallet_path", "world"]

GOOD = "Because air molecules scatter short wavelengths far more strongly than long ones."
PLAIN = "Because of the air."
MINERS, STEPS = 6, 48


@asynccontextmanager
async def gating_process(redis_url: str) -> AsyncIterator[str]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COREMESH_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.gating", f"--http.port={port}", f"--redis.url={redis_url}"),
        *("--gating.save_s=0", "--gating.follow_s=0.05", "--gating.explore=0"),
        env=environment,
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)


async def teach(world: World, miners: list[Miner]) -> None:
    """The first miner is by far the best, the others are alike."""
    rng = np.random.default_rng(0)
    hotkeys = [miner.hotkey for miner in miners]
    for step in range(STEPS):
        event = forward_event(
            id=new_event_id(),
            time_ms=1,
            block=1,
            kind="answer",
            flags=Flag.SCORED | Flag.TRAIN_GATING,
            messages=(Message("user", f"Why is number {step} so?"),),
            uids=range(1, MINERS + 1),
            hotkeys=hotkeys,
            status=[0] * MINERS,
            latency_s=[0.1] * MINERS,
            rewards=np.r_[0.9, [0.1] * (MINERS - 1)] + rng.normal(0, 0.02, MINERS),
            available=MINERS,
        )
        await world.history.append(event, None, hotkeys)


@asynccontextmanager
async def querier(world: World, gating_url: str) -> AsyncIterator[httpx.AsyncClient]:
    settings = world.settings()
    mesh = settings[MeshSettings].model_copy(update={"gating_url": gating_url})
    loops = await world.queriers.enter_async_context(Loops(lambda name, error: None))
    app = create_app(settings.replace(mesh), loops, Health())
    url = await world.servers.serve(app)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def knows() -> bool:
            return (await client.get("/metagraph")).status_code == 200

        await wait_until(knows)
        yield client


@pytest.mark.timeout(120)
async def test_a_user_who_leaves_the_number_to_gating_has_few_asked_and_the_best_among_them(
    world: World,
) -> None:
    miners = await world.miners(says(GOOD), *[says(PLAIN)] * (MINERS - 1))
    await teach(world, miners)
    async with gating_process(world.redis_url) as url, querier(world, url) as client:
        async with httpx.AsyncClient(base_url=url, timeout=10) as gating:

            async def learnt() -> bool:
                try:
                    return (await gating.get("/head")).json()["steps"] >= STEPS
                except httpx.TransportError:
                    return False

            await wait_until(learnt, timeout=90, why="gating has learnt the history")
        everyone = (await ask(client, top_k=MINERS, return_all=True)).json()
        assert sorted(item["uid"] for item in everyone["completions"]) == list(range(1, MINERS + 1))
        before = [len(miner.asked) for miner in miners]
        body = (await ask(client, top_k="auto", return_all=True)).json()
        asked = [len(miner.asked) - had for miner, had in zip(miners, before, strict=True)]
        assert (body["uid"], body["completion"], body["degraded"]) == (1, GOOD, [])
        assert asked[0] == 1
        assert sum(asked) == len(body["completions"]) <= 3
        event = await world.event(body["event_id"])
        assert (int(event.uids[0]), len(event.uids), event.available) == (1, sum(asked), MINERS)
        assert event.head_version > 0
        assert np.isfinite(event.gating).all()
        assert event.propensity[0] == 1.0
