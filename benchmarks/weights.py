"""What the score fold costs and how well its rules rank: ``python -m benchmarks.weights`` (about 5 minutes).

Needs torch for the original's loop, and a Redis (its own, started here). CPU time is compared, since the cores may
be shared. JSON lines on standard output; what they are made of goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
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

from benchmarks.weights_original import OriginalEvent
from benchmarks.weights_original import fold as original_fold
from coremesh.events import Flag, ForwardEvent, Message, MetagraphEvent, forward_event
from coremesh.folding import FoldRunner
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN, StreamId, new_event_id
from services.weights import scores
from services.weights.fold import NAME, ROLE, ScoreFold
from services.weights.rules import RULES, SoftmaxEma, rule_named
from services.weights.scores import ScoreState
from tests.redis_server import RedisServer
from tests.wait import wait_until

NETWORK, ASKED = 256, 50
RECORDED = 100_000
FOLDED = 1_000_000
ORIGINAL_EVENTS = 5_000
PAGE = 1_000
HOTKEYS = [f"5{'F' * 40}{uid:07d}" for uid in range(NETWORK)]


def report(
    metric: str, value: float, unit: str, baseline: float | None = None, ratio: float | None = None
) -> None:
    rounded = [None if n is None else round(n, 4) for n in (value, baseline, ratio)]
    line = {"metric": f"weights.{metric}", "value": rounded[0], "unit": unit}
    print(json.dumps({**line, "baseline": rounded[1], "ratio": rounded[2]}), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def forward(random: np.random.Generator, n: int) -> ForwardEvent:
    """An event as the querier records it: a question of some words, two reward functions, gating scores."""
    uids = random.choice(NETWORK, ASKED, replace=False)
    rewards = random.normal(size=ASKED).astype(np.float32)
    rewards[random.random(ASKED) < 0.2] = np.nan
    return forward_event(
        id=new_event_id(),
        time_ms=time.time_ns() // 1_000_000,
        block=1,
        kind="answer",
        flags=Flag.SCORED | Flag.TRAIN_GATING | Flag.RANDOM_SAMPLE,
        messages=(
            Message("system", "You answer questions truthfully and in a few sentences."),
            Message("user", f"Question {n}: how does a vaccine train the immune system, and for how long?"),
        ),
        uids=uids,
        hotkeys=[HOTKEYS[uid] for uid in uids],
        status=np.isnan(rewards),
        latency_s=random.random(ASKED),
        rewards=rewards,
        parts={"relevance": rewards, "diversity": random.random(ASKED)},
        gating=random.random(ASKED),
        best=0,
        available=NETWORK,
    )


async def record(history: RedisHistory, count: int) -> None:
    random = np.random.default_rng(0)
    for start in range(0, count, 100):
        events = [forward(random, start + i) for i in range(min(100, count - start))]
        await asyncio.gather(*(history.append(event, None, HOTKEYS) for event in events))


async def fold_from_redis(history: RedisHistory, count: int) -> tuple[float, float]:
    """CPU and wall seconds of folding ``count`` events out of Redis, reading what is recorded again and again."""
    state, at, done = ScoreState(), ORIGIN, 0
    cpu, wall = time.process_time(), time.perf_counter()
    while done < count:
        entries = await history.read(at, PAGE)
        if not entries:
            at = ORIGIN
            continue
        scores.fold(state, (entry.event for entry in entries), SoftmaxEma())
        at, done = entries[-1].stream_id, done + len(entries)
    return time.process_time() - cpu, time.perf_counter() - wall


async def originals(history: RedisHistory) -> list[OriginalEvent]:
    found: list[OriginalEvent] = []
    for entry in await history.read(ORIGIN, ORIGINAL_EVENTS):
        event = entry.event
        assert isinstance(event, ForwardEvent)
        good = np.isfinite(event.rewards)
        uids = event.uids.astype(np.int64)
        found.append(
            OriginalEvent(
                uids=torch.tensor(uids[good]),
                queried=torch.tensor(uids),
                rewards=torch.tensor(event.rewards[good]),
                hotkeys=list(HOTKEYS),
            )
        )
    return found


def original_us(events: list[OriginalEvent], *, walk: bool) -> float:
    times: list[float] = []
    for _ in range(5):
        start = time.process_time()
        original_fold(events, NETWORK, walk=walk)
        times.append((time.process_time() - start) / len(events) * 1e6)
    return float(np.median(times))


async def bench_fold(history: RedisHistory) -> None:
    events = await originals(history)
    lean, walked = original_us(events, walk=False), original_us(events, walk=True)
    note(f"the original's loop in memory: {lean:.1f} us an event, {walked:.1f} us walking the uids")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = await fold_from_redis(history, FOLDED)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    ours = cpu / FOLDED * 1e6
    note(f"ours from Redis: {ours:.2f} us an event of CPU; memory grew by {grown:.1f} MB in {FOLDED} events")
    kept = [e.event for e in await history.read(ORIGIN, 10_000)]
    state = scores.fold(ScoreState(), kept, SoftmaxEma())
    start = time.process_time()
    for at in range(0, len(kept), PAGE):
        scores.fold(state, kept[at : at + PAGE], SoftmaxEma())
    memory = (time.process_time() - start) / len(kept) * 1e6
    note(f"ours in memory: {memory:.2f} us an event ({walked / memory:.1f} times the original)")
    report("fold_vs_original", ours, "us/event", walked, walked / ours)
    report("fold_events_per_s", FOLDED / wall, "events/s")


async def bench_recovery(history: RedisHistory) -> None:
    done = asyncio.Event()
    last = await history.last_id()

    async def on_state(state: Any, checkpoint: Any, lease: Any) -> None:
        if checkpoint.last_id == last:
            done.set()

    runner = FoldRunner(
        history, ScoreFold(SoftmaxEma()), name=NAME, role=ROLE, holder="one", on_state=on_state
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
        server = RedisServer(Path(directory))
        server.start()
        history = RedisHistory(server.url, 1, timeout=timedelta(seconds=60))
        try:
            redis: Any = history._redis
            before = (await redis.info("memory"))["used_memory"]
            await record(history, RECORDED)
            used = ((await redis.info("memory"))["used_memory"] - before) / 2**20
            report("redis_mb_100k", used, "MB")
            await bench_fold(history)
            await bench_recovery(history)
            await bench_takeover(history, server.url)
        finally:
            await history.close()
            server.stop()


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    bench_rules()
    asyncio.run(on_redis())


if __name__ == "__main__":
    main()
