"""What the reward service learnt is damaged in Redis, while it runs and before it starts; and it is killed at work."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx
import msgspec
import pytest
import redis

from coremesh.history.redis import RedisHistory
from devnet.chain.testing import free_port
from services.reward.fold import NAME
from services.reward.learnt import CommonPhrases, Recent
from services.reward.statistics import Statistics
from tests.integration.reward.serving import ask, serving, settings
from tests.integration.reward.test_learning import record, version
from tests.integration.reward.test_learnt import NEW, SAID, STACK
from tests.wait import wait_until

CUT = msgspec.msgpack.encode(Statistics(9, {}, CommonPhrases(), Recent(7, b"\0" * 27)))
"""Of the right shape, but for a signature that ends halfway."""


@pytest.mark.parametrize("state", [b"", b"\xff\x00garbage", b"\x93\x01\x02\x03", CUT])
async def test_damaged_memory_is_learnt_anew_and_nobody_is_refused(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path, state: bytes
) -> None:
    loaded = settings(f"--redis.url={redis_url}", stack=STACK, folder=tmp_path)
    async with serving(loaded) as one:
        answer = (await one.post("/reward", json=ask(NEW, SAID))).json()
        for _ in range(4):
            await record(redis_history, answer)
        await wait_until(lambda: _is(one, 4))
        # Written over while it runs: it goes on serving what it has.
        raw = redis.Redis.from_url(redis_url)
        raw.hset(redis_history.keys.checkpoint(NAME), "state", state)
        raw.hincrby(redis_history.keys.checkpoint(NAME), "version", 1)
        await asyncio.sleep(1.2)
        assert (await one.post("/reward", json=ask(NEW, SAID))).status_code == 200
    async with serving(loaded) as again:
        await record(redis_history, answer)
        await wait_until(lambda: _is(again, 5), why="everything has been learnt again")
        assert (await again.post("/reward", json=ask(NEW, SAID))).status_code == 200


async def _is(client: httpx.AsyncClient, wanted: int) -> bool:
    return await version(client) == wanted


async def test_killed_at_work_it_starts_with_a_shadow_and_knows_what_it_knew(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "stack.toml").write_text(STACK)
    (tmp_path / "shadow.toml").write_text(STACK.replace("common = 0.08", "common = 0.5"))
    ports = [free_port(), free_port()]

    async def start(port: int, *flags: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.reward", f"--http.port={port}", f"--redis.url={redis_url}"),
            *(f"--reward.stack={tmp_path / 'stack.toml'}", *flags),
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stderr=asyncio.subprocess.DEVNULL,
        )

    processes = [await start(port) for port in ports]
    try:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[0]}", timeout=60) as one,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[1]}", timeout=60) as other,
        ):
            for client in (one, other):
                await wait_until(lambda client=client: _ready(client), timeout=90, every=0.2)
            answer = (await one.post("/reward", json=ask(NEW, SAID))).json()
            for _ in range(6):
                await record(redis_history, answer)
            for client in (one, other):
                await wait_until(lambda client=client: _is(client, 6))
            known = (await other.post("/reward", json=ask(NEW, SAID))).json()
            # Both killed while they score, one after the other; the survivor's answers are no others.
            scoring = [asyncio.create_task(one.post("/reward", json=ask(NEW, SAID * 100))) for _ in range(8)]
            await asyncio.sleep(0.05)
            processes[0].kill()
            done = await asyncio.gather(*scoring, return_exceptions=True)
            assert all(isinstance(end, httpx.HTTPError) or end.status_code in (200, 429) for end in done)  # type: ignore[union-attr]
            assert (await other.post("/reward", json=ask(NEW, SAID))).json() == known
            await record(redis_history, answer)
            await wait_until(lambda: _is(other, 7), timeout=20, why="the other leads the fold")
            processes[1].kill()
            shadowed = await start(
                ports[0], f"--reward.shadow={tmp_path / 'shadow.toml'}", "--reward.shadow_share=1"
            )
            processes.append(shadowed)
            await wait_until(lambda: _ready(one), timeout=90, every=0.2)
            await wait_until(lambda: _is(one, 7), timeout=20, why="it knows what was learnt before")
            with_shadow = (await one.post("/reward", json=ask(NEW, SAID))).json()
            assert any(name.startswith("shadow:") for name in with_shadow["extra"])
            await record(redis_history, with_shadow)
            await wait_until(lambda: _is(one, 8), timeout=20)
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.HTTPError:
        return False
