"""A leader that is stopped with a signed extrinsic in its hands, and goes on when another leads."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coremesh.errors import ChainUnavailable
from coremesh.history.redis import RedisHistory
from devnet.chain.testing import RunningChain, running_chain
from services.weights.chain import ERA_BLOCKS
from services.weights.chain.sdk import BittensorChain
from tests.integration.weights.middle import SUBMITS, Middle, middle
from tests.integration.weights.processes import Crowd, WeightsProcess, folded, replay
from tests.integration.weights.test_chain import sdk
from tests.wait import wait_until


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[RunningChain]:
    with running_chain(tmp_path, block_time=0.25, tempo=40, rate_limit=4) as node:
        yield node


async def stopped_with_a_signature(
    man: Middle, history: RedisHistory, redis_url: str, chain: RunningChain, tmp_path: Path
) -> tuple[WeightsProcess, Crowd]:
    """A leader, stopped when its extrinsic was signed and had not yet reached the node."""
    flags = ("--weights.lease_s=1", f"--chain.network={man.url}", "--chain.timeout_s=5")
    leader = WeightsProcess(redis_url, chain, tmp_path, flags)
    man.holds = lambda method: method == SUBMITS
    leader.start()
    await wait_until(history.metagraph, timeout=60)
    crowd = Crowd(history)
    await crowd.append(50)
    await wait_until(lambda: man.held, timeout=60, why="a signed extrinsic")
    assert leader.process is not None
    leader.process.send_signal(signal.SIGSTOP)
    return leader, crowd


async def rows(history: RedisHistory) -> list[Any]:
    return [entry.submission for entry in reversed(await history.submissions(100))]


@pytest.mark.timeout(180)
async def test_its_heir_sends_the_same_record_and_the_chain_takes_one_of_the_two(
    redis_history: RedisHistory, redis_url: str, chain: RunningChain, tmp_path: Path
) -> None:
    async with middle(chain.url) as man:
        leader, crowd = await stopped_with_a_signature(man, redis_history, redis_url, chain, tmp_path)
        heir = WeightsProcess(redis_url, chain, tmp_path, ("--weights.lease_s=1",))
        heir.start()
        looks = sdk(chain, timeout_s=20.0)
        try:

            async def landed() -> Any:
                return next((s for s in await rows(redis_history) if s.result == "landed"), None)

            first = await wait_until(landed, timeout=60, why="the heir's weights")
            assert first is not None
            (answer,) = await man.release()
            assert "error" in answer, "of one nonce the chain takes one"
            assert leader.process is not None
            leader.process.send_signal(signal.SIGCONT)
            await crowd.append(50)
            await wait_until(
                lambda: _more(redis_history, first.landed_block), timeout=60, why="the next epoch"
            )
            assert leader.process.poll() is None
            newest = [s for s in await rows(redis_history) if s.result == "landed"][-1]
            assert dict((await looks.standing()).weights) == dict(
                zip(newest.uids, newest.values, strict=True)
            )
            await folded(heir, crowd.sent)
            code, report = await asyncio.to_thread(replay, redis_url)
            assert (code, report["differences"]) == (0, [])
        finally:
            heir.end()
            leader.end()
            await looks.close()


@pytest.mark.timeout(180)
async def test_some_blocks_later_its_signature_is_refused_though_nobody_used_the_nonce(
    redis_history: RedisHistory, redis_url: str, chain: RunningChain, tmp_path: Path
) -> None:
    async with middle(chain.url) as man:
        leader, _ = await stopped_with_a_signature(man, redis_history, redis_url, chain, tmp_path)
        looks = sdk(chain, timeout_s=20.0)
        try:
            before = await looks.standing()

            async def later() -> bool:
                return (await looks.tick()).block > before.block + ERA_BLOCKS + 1

            await wait_until(later, timeout=60, why="the chain moves on")
            (answer,) = await man.release()
            assert "error" in answer
            assert leader.process is not None
            man.holds = lambda _method: False
            leader.process.send_signal(signal.SIGCONT)
            assert (await looks.standing()).last_update == before.last_update
            # It leads again, for nobody else is there, gives the old record up, and sets weights anew.
            await wait_until(lambda: _landed_after(looks, before.last_update), timeout=90, why="new weights")
            found = await rows(redis_history)
            assert found[0].result == "sent"
            assert {s.result for s in found if s.id == found[0].id} <= {"sent", "failed"}
        finally:
            leader.end()
            await looks.close()


async def _more(history: RedisHistory, block: int) -> bool:
    return any(s.landed_block > block for s in await rows(history) if s.result == "landed")


async def _landed_after(chain: BittensorChain, block: int) -> bool:
    try:
        return (await chain.standing()).last_update > block
    except ChainUnavailable:
        return False
