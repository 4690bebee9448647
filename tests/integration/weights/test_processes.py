"""Real weights processes on a real Redis and the embedded chain: seen from outside, killed, doubled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN, stream_key
from coremesh.wire.keys import keypair_from_uri
from devnet.chain.testing import RunningChain, free_port, running_chain
from services.weights import scores
from services.weights.rules import SoftmaxEma
from tests.integration.weights.processes import Crowd, WeightsProcess, folded, replay
from tests.redis_server import RedisServer
from tests.wait import wait_until

KILLS = int(os.environ.get("COREMESH_TEST_KILLS", "4"))


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[RunningChain]:
    with running_chain(tmp_path, block_time=0.1, tempo=20, rate_limit=4) as node:
        yield node


@pytest.fixture
async def weights(
    redis_history: RedisHistory, redis_url: str, chain: RunningChain, tmp_path: Path
) -> AsyncIterator[WeightsProcess]:
    process = WeightsProcess(redis_url, chain, tmp_path)
    process.start()
    try:
        await wait_until(process.ready, timeout=30, why="ready")
        await wait_until(redis_history.metagraph)
        yield process
    finally:
        process.end()


async def landed(weights: WeightsProcess, after_events: int = 0) -> dict:
    """The newest submission that the chain took, with scores behind it."""

    async def look() -> dict | None:
        for row in await weights.submissions():
            if row["result"] in ("landed", "revealed") and len(row["uids"]) < 25:
                return row
        return None

    found = await wait_until(look, timeout=30, every=0.1, why="weights with scores landed")
    assert found is not None
    return found


async def test_events_become_scores_weights_and_a_proof(
    redis_history: RedisHistory, redis_url: str, weights: WeightsProcess
) -> None:
    crowd = Crowd(redis_history)
    await crowd.append(300)
    scores = await folded(weights, crowd.sent)
    ranked = sorted(scores["rows"], key=lambda row: -row["score"])
    assert ranked[0]["uid"] == 2
    assert {row["uid"] for row in scores["rows"] if row["excluded"]} == {0, 1}
    metagraph = await redis_history.metagraph()
    assert metagraph is not None
    assert [row["hotkey"] for row in scores["rows"]] == metagraph.hotkeys
    await landed(weights)

    async def settled() -> bool:
        found = await weights.get("/weights")
        wanted = dict(zip(found["uids"], found["values"], strict=True))
        return {int(uid): value for uid, value in found["on_chain"].items()} == wanted

    await wait_until(settled, timeout=30, every=0.1, why="the chain holds what /weights shows")
    code, report = replay(redis_url)
    assert (code, report["equal"], report["events"]) == (0, True, crowd.sent)
    assert len(report["submissions"]) >= 1


@pytest.mark.timeout(60 + 15 * KILLS)
async def test_a_kill_at_any_moment_loses_nothing_and_counts_nothing_twice(
    redis_history: RedisHistory, redis_url: str, chain: RunningChain, tmp_path: Path
) -> None:
    """COREMESH_TEST_KILLS says how often; some kills come while it starts, most while it folds."""
    weights = WeightsProcess(redis_url, chain, tmp_path, ("--weights.lease_s=0.5",))
    weights.start()
    moments = random.Random(1)
    crowd = Crowd(redis_history)
    try:
        await wait_until(redis_history.metagraph, timeout=30)
        async with crowd.at_work():
            for _ in range(KILLS):
                before = await redis_history.version("scores")
                if moments.random() < 0.8:
                    await wait_until(lambda before=before: _beyond(redis_history, before), timeout=30)
                    await asyncio.sleep(moments.random() * 0.3)
                else:
                    await asyncio.sleep(moments.random() * 2)
                assert weights.end(signal.SIGKILL) == -signal.SIGKILL
                weights.start()
        await folded(weights, crowd.sent)
        code, report = replay(redis_url)
    finally:
        weights.end()
    assert (code, report["differences"]) == (0, [])
    assert report["events"] == crowd.sent
    checkpoint = await redis_history.load("scores")
    assert checkpoint is not None
    entries = await redis_history.read(ORIGIN, 1_000_000)
    kept = [e.event for e in entries if stream_key(e.stream_id) <= stream_key(checkpoint.last_id)]
    uninterrupted = scores.fold(scores.ScoreState(), kept, SoftmaxEma())
    assert scores.dump(uninterrupted) == checkpoint.state


async def _beyond(history: RedisHistory, version: int) -> bool:
    return await history.version("scores") > version


async def test_the_other_instance_takes_over_within_ten_seconds(
    redis_history: RedisHistory, redis_url: str, weights: WeightsProcess, tmp_path: Path
) -> None:
    crowd = Crowd(redis_history)
    await crowd.append(50)
    second = WeightsProcess(redis_url, weights.chain, tmp_path)
    second.start()
    try:
        await wait_until(second.ready, timeout=30)
        leader = await redis_history.leader("weights")
        assert (await folded(second, crowd.sent)) == (await folded(weights, crowd.sent))
        weights.end(signal.SIGKILL)
        await crowd.append(50)

        async def taken() -> bool:
            return await redis_history.leader("weights") not in (None, leader)

        await wait_until(taken, timeout=10, why="the second leads")
        await folded(second, crowd.sent)
        newest = (await landed(second))["block"]

        async def goes_on() -> bool:
            return (await landed(second))["block"] > newest or (await crowd.append(2)) is not None

        await wait_until(goes_on, timeout=30, every=0.2)
        assert replay(redis_url)[0] == 0
    finally:
        second.end()


async def test_a_leader_that_was_stopped_wakes_up_as_a_standby(
    redis_history: RedisHistory, redis_url: str, chain: RunningChain, tmp_path: Path
) -> None:
    """A long pause of a whole process: its lease runs out without its knowing."""
    flags = ("--weights.lease_s=0.5",)
    pair = [WeightsProcess(redis_url, chain, tmp_path, flags) for _ in range(2)]
    for process in pair:
        process.start()
    try:
        await wait_until(redis_history.metagraph, timeout=30)
        crowd = Crowd(redis_history)
        async with crowd.at_work():
            for turn in range(3):
                leader = await redis_history.leader("weights")
                process = await wait_until(lambda: _leading(pair), timeout=30, why="somebody leads")
                assert process is not None
                assert process.process is not None
                await asyncio.sleep(0.13 * turn)
                process.process.send_signal(signal.SIGSTOP)
                try:
                    await wait_until(
                        lambda leader=leader: _led_by_another(redis_history, leader),
                        timeout=30,
                        why="an heir",
                    )
                    before = await redis_history.version("scores")
                    await wait_until(lambda before=before: _beyond(redis_history, before), timeout=30)
                finally:
                    process.process.send_signal(signal.SIGCONT)
                await wait_until(lambda p=process: _stands_by(p), timeout=30, why="it stands by")
        await folded(pair[0], crowd.sent)
        code, report = replay(redis_url)
        assert (code, report["differences"], report["events"]) == (0, [], crowd.sent)
    finally:
        for process in pair:
            process.end()


async def _leading(pair: list[WeightsProcess]) -> WeightsProcess | None:
    for process in pair:
        if 'coremesh_fold_leading{fold="scores"} 1.0' in await process.metrics():
            return process
    return None


async def _stands_by(process: WeightsProcess) -> bool:
    return 'coremesh_fold_leading{fold="scores"} 0.0' in await process.metrics()


async def _led_by_another(history: RedisHistory, leader: str | None) -> bool:
    return await history.leader("weights") not in (None, leader)


async def test_redis_and_the_chain_may_restart(
    tmp_path: Path, chain: RunningChain, redis_server: RedisServer
) -> None:
    own = RedisServer(redis_server.directory / "own")
    own.directory.mkdir(exist_ok=True)
    own.start()
    history = RedisHistory(own.url, 1)
    weights = WeightsProcess(own.url, chain, tmp_path)
    weights.start()
    try:
        await wait_until(weights.ready, timeout=30)
        crowd = Crowd(history)
        await crowd.append(50)
        await folded(weights, crowd.sent)
        own.stop()  # cleanly: with appendfsync everysec a kill may lose a second
        await wait_until(lambda: _unready(weights), timeout=10)
        own.start()
        chain.stop()
        await crowd.append(20)
        await folded(weights, crowd.sent)  # a chain that is away does not stop the fold
        chain.start()
        await wait_until(weights.ready, timeout=30)
        before = len(await weights.submissions())
        await crowd.append(20)

        async def again() -> bool:
            return len(await weights.submissions()) > before

        await wait_until(again, timeout=30, why="weights after the restarts")
        assert weights.process is not None
        assert weights.process.poll() is None
        assert replay(own.url)[0] == 0
    finally:
        weights.end()
        await history.close()
        own.stop()


async def _unready(weights: WeightsProcess) -> bool:
    return not await weights.ready()


async def test_a_replaced_hotkey_starts_again_and_the_others_go_on(
    redis_history: RedisHistory, redis_url: str, weights: WeightsProcess
) -> None:
    crowd = Crowd(redis_history)
    await crowd.append(100)
    before = {row["uid"]: row for row in (await folded(weights, crowd.sent))["rows"]}
    new, cold = keypair_from_uri("//New").ss58_address, keypair_from_uri("//Cold").ss58_address
    with weights.chain.admin() as admin:
        admin.replace_hotkey(1, 2, new, cold)

    async def noticed() -> dict | None:
        rows = {row["uid"]: row for row in (await weights.get("/scores"))["rows"]}
        return rows if rows[2]["hotkey"] == new else None

    after = await wait_until(noticed, timeout=20, why="the new hotkey in the scores")
    assert after is not None
    assert before[2]["score"] > 0
    assert (after[2]["score"], after[2]["successes"], after[2]["reset_block"] > 0) == (0.0, 0, True)
    assert {u: r for u, r in after.items() if u != 2} == {u: r for u, r in before.items() if u != 2}
    assert replay(redis_url)[0] == 0


async def test_a_history_whose_start_was_trimmed_is_not_called_proven(
    redis_history: RedisHistory, redis_url: str, weights: WeightsProcess
) -> None:
    crowd = Crowd(redis_history)
    await crowd.append(60)
    await folded(weights, crowd.sent)
    assert await redis_history.trim(20, ("scores",)) > 0
    code, report = replay(redis_url)
    assert (code, report["provable"], report["equal"]) == (3, False, False)
    assert "trimmed" in report["note"]


async def test_a_tampered_history_is_found_out(
    redis_history: RedisHistory, redis_url: str, weights: WeightsProcess
) -> None:
    crowd = Crowd(redis_history)
    await crowd.append(60)
    await folded(weights, crowd.sent)
    weights.end()
    victim = (await redis_history.tail(30))[-1].stream_id
    await redis_history._redis.xdel(redis_history.keys.events, victim)
    code, report = replay(redis_url)
    assert (code, report["equal"]) == (1, False)
    assert report["differences"]


async def test_sigterm_ends_it_cleanly_and_frees_the_lease(
    redis_history: RedisHistory, weights: WeightsProcess
) -> None:
    assert await redis_history.leader("weights") is not None
    assert weights.end(signal.SIGTERM) == 0
    assert await redis_history.leader("weights") is None


async def test_sigterm_ends_it_while_the_chain_hangs(weights: WeightsProcess) -> None:
    with weights.chain.admin() as admin:
        admin.pause()
        await wait_until(lambda: _unready(weights), timeout=20, why="the chain is missed")
        assert weights.end(signal.SIGTERM) == 0
        admin.resume()


async def test_nominators_are_refreshed_and_published(
    redis_history: RedisHistory, weights: WeightsProcess
) -> None:
    first = await redis_history.metagraph()
    assert first is not None
    cold = keypair_from_uri("//Nominator").ss58_address
    with weights.chain.admin() as admin:
        admin.set_stake(1, first.hotkey, cold, 123.0)

    async def published() -> float | None:
        metagraph = await redis_history.metagraph()
        assert metagraph is not None
        return next((n.stake for n in metagraph.nominators if n.coldkey == cold), None)

    assert await wait_until(published, timeout=20, why="the new nominator") == pytest.approx(123.0)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--wallet.name", "nobody"], "there is no hotkey file"),
        (["--chain.network", "nowhere"], "COREMESH_CHAIN_NETWORK"),
        (["--weights.rule", "best"], "--weights.rule: got 'best'"),
        (["--http.host", "0.0.0.0"], "without any token"),
    ],
)
def test_what_cannot_start_says_why_and_exits_with_2(
    chain: RunningChain, flags: list[str], said: str
) -> None:
    base = ["--wallet.path", str(chain.wallets_dir), "--wallet.name", "validator"]
    done = subprocess.run(
        [sys.executable, "-m", "services.weights", *base, *flags, "--http.port", str(free_port())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


async def test_commit_reveal_end_to_end(redis_history: RedisHistory, redis_url: str, tmp_path: Path) -> None:
    with running_chain(tmp_path, block_time=0.1, tempo=20, rate_limit=4, commit_reveal=True) as node:
        weights = WeightsProcess(redis_url, node, tmp_path)
        weights.start()
        try:
            await wait_until(weights.ready, timeout=30)
            await wait_until(redis_history.metagraph)
            crowd = Crowd(redis_history)
            await crowd.append(100)
            with contextlib.suppress(TimeoutError):
                await folded(weights, crowd.sent)
            row = await landed(weights)
            assert row["result"] == "revealed"
            assert row["commit_reveal"]
        finally:
            weights.end()
