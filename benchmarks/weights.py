"""What the score fold costs and how well its rules rank: ``python -m benchmarks.weights`` (about 5 minutes).

Needs torch for the original's loop, and a Redis (its own, started here). CPU time is compared, by the least of several
rounds that take turns, since the cores may be shared. JSON lines on standard output; what they are made of goes to
standard error.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from benchmarks.weights_fold import bench_fold
from benchmarks.weights_recorded import (
    ASKED,
    HOTKEYS,
    LARGE,
    NETWORK,
    forward,
    lengthen,
    note,
    record,
    report,
)
from coremesh.events import Flag, ForwardEvent, MetagraphEvent, decode_scored, forward_event
from coremesh.folding import FoldRunner
from coremesh.history.redis import RedisHistory
from coremesh.types import StreamId, new_event_id
from services.weights import scores
from services.weights.fold import NAME, ROLE, ScoreFold
from services.weights.rules import RULES, SoftmaxEma, rule_named
from services.weights.scores import ScoreState
from tests.integration.redis.servers import free_port
from tests.redis_server import RedisServer
from tests.wait import wait_until

RECORDED = 100_000
RECORDED_LARGE = 10_000
FOLDED = 1_000_000


async def bench_recovery(history: RedisHistory) -> None:
    done = asyncio.Event()
    last = await history.last_id()

    async def on_state(state: Any, checkpoint: Any, lease: Any) -> None:
        if checkpoint.last_id == last:
            done.set()

    fold = ScoreFold(SoftmaxEma())
    runner = FoldRunner(
        history,
        fold,
        name=NAME,
        role=ROLE,
        holder="one",
        on_state=on_state,
        decode=decode_scored,
        apply_page=fold.apply_page if fold.has_pages else None,
    )
    start = time.perf_counter()
    task = asyncio.create_task(runner.run())
    await done.wait()
    report("recover_s_100k", time.perf_counter() - start, "s")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


LEAD = """
import asyncio, sys
from coremesh.folding import FoldRunner
from coremesh.history.redis import RedisHistory
from services.weights.fold import NAME, ROLE, ScoreFold
from services.weights.rules import SoftmaxEma
async def main():
    history = RedisHistory(sys.argv[1], 1)
    await FoldRunner(history, ScoreFold(SoftmaxEma()), name=NAME, role=ROLE, holder="leader").run()
asyncio.run(main())
"""


async def bench_takeover(history: RedisHistory, url: str) -> None:
    times: list[float] = []
    for _ in range(3):
        leader = await asyncio.create_subprocess_exec(sys.executable, "-c", LEAD, url, stdout=sys.stderr)
        try:
            await wait_until(lambda: _leads(history), timeout=60)
            runner = FoldRunner(history, ScoreFold(SoftmaxEma()), name=NAME, role=ROLE, holder="heir")
            task = asyncio.create_task(runner.run())
            await asyncio.sleep(2.5)  # past a renewal
        finally:
            leader.kill()
            await leader.wait()
        start = time.perf_counter()
        event = forward(np.random.default_rng(1), 0)
        place = await history.append(event, None, HOTKEYS)
        await wait_until(lambda place=place: _folded(history, place), timeout=60)
        times.append(time.perf_counter() - start)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    report("takeover_s", max(times), "s")


async def _leads(history: RedisHistory) -> bool:
    return await history.leader(ROLE) == "leader"


async def _folded(history: RedisHistory, place: StreamId) -> bool:
    checkpoint = await history.load(NAME)
    return checkpoint is not None and checkpoint.last_id == place


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    ranks = [np.argsort(np.argsort(x)).astype(np.float64) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def bench_rules() -> None:
    """256 miners of normal quality; 50 asked at random; rewards are quality, how hard the question is, and noise; one
    answer in ten fails. Medians over 5 seeds."""
    found: dict[str, list[float]] = {}
    for seed in range(5):
        random = np.random.default_rng(seed)
        quality = random.normal(size=NETWORK)
        news = MetagraphEvent(id=new_event_id(), time_ms=0, block=0, size=NETWORK, changes=())
        states = {name: scores.fold(ScoreState(), [news], _rule(name)) for name in RULES}
        at = 0
        for until in (200, 1000, 5000):
            events = [_judged(random, quality) for _ in range(until - at)]
            at = until
            for name, state in states.items():
                rule = _rule(name)
                scores.fold(state, events, rule)
                ranked = rule.scores(state.moving, state.successes, state.failures)
                found.setdefault(f"{name}.t{until}", []).append(spearman(ranked, quality))
                top = NETWORK // 10
                shared = set(np.argsort(-ranked)[:top]) & set(np.argsort(-quality)[:top])
                note(f"seed {seed} {name} t{until}: top 10% overlap {len(shared) / top:.2f}")
    for name, values in found.items():
        report(f"spearman.{name}", float(np.median(values)), "rank correlation")


def _rule(name: str) -> Any:
    return rule_named(name, alpha=0.99, temperature=1.0)


def _judged(random: np.random.Generator, quality: NDArray[np.float64]) -> ForwardEvent:
    uids = random.choice(NETWORK, ASKED, replace=False)
    rewards = (quality[uids] + random.normal() + random.normal(size=ASKED)).astype(np.float32)
    rewards[random.random(ASKED) < 0.1] = np.nan
    return forward_event(
        id=new_event_id(),
        time_ms=0,
        block=1,
        kind="answer",
        flags=Flag.SCORED,
        messages=(),
        uids=uids,
        hotkeys=[HOTKEYS[uid] for uid in uids],
        status=np.isnan(rewards),
        latency_s=np.zeros(ASKED),
        rewards=rewards,
        available=NETWORK,
    )


async def on_redis() -> None:
    with tempfile.TemporaryDirectory(prefix="coremesh-bench-") as directory:
        server = RedisServer(Path(directory), free_port())
        server.start()
        # Over TCP, as services have it.
        url = f"redis://127.0.0.1:{server.port}"
        history, large, long = (
            RedisHistory(url, netuid, timeout=timedelta(seconds=60)) for netuid in (1, 2, 3)
        )
        try:
            redis: Any = history._redis
            # Its file would be written anew meanwhile, by a process that takes a core.
            await redis.config_set("appendonly", "no")
            before = (await redis.info("memory"))["used_memory"]
            await record(history, RECORDED)
            used = ((await redis.info("memory"))["used_memory"] - before) / 2**20
            report("redis_mb_100k", used, "MB")
            await record(large, RECORDED_LARGE, LARGE)
            await lengthen(history, long, FOLDED // RECORDED)
            await bench_fold(long, large, server)
            await redis.delete(long.keys.events)
            await bench_recovery(history)
            await bench_takeover(history, url)
        finally:
            await history.close()
            await large.close()
            await long.close()
            server.stop()


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    bench_rules()
    asyncio.run(on_redis())


if __name__ == "__main__":
    main()
