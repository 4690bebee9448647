"""What the score fold costs and how well its rules rank: ``python -m benchmarks.weights`` (about 5 minutes).

Needs torch for the original's loop, and a Redis (its own, started here). CPU time is compared, by the least of several
rounds that take turns, since the cores may be shared. JSON lines on standard output; what they are made of goes to
standard error.

``weights.fold_vs_original`` is our fold from Redis against the original's loop on events in memory, walking the uids
of a network of 256; ``.lists`` against its best form, ``.n1024`` in a network of 1024, ``.in_memory`` with our events
in memory too. ``.read_alone`` is what it would be if folding cost nothing: copying the replies out of the socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import hiredis
import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from benchmarks.weights_original import OriginalEvent
from benchmarks.weights_original import fold as original_fold
from coremesh.events import (
    Flag,
    ForwardEvent,
    Message,
    MetagraphEvent,
    ScoredEvent,
    decode_scored,
    forward_event,
)
from coremesh.folding import FoldRunner
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN, StreamId, new_event_id
from services.weights import scores
from services.weights.fold import NAME, ROLE, ScoreFold
from services.weights.rules import RULES, SoftmaxEma, rule_named
from services.weights.scores import ScoreState
from tests.redis_server import RedisServer
from tests.wait import wait_until

NETWORK, LARGE, ASKED = 256, 1024, 50
RECORDED = 100_000
RECORDED_LARGE = 10_000
FOLDED = 1_000_000
ORIGINAL_EVENTS = 5_000
PAGE = 512
HOTKEYS = [f"5{'F' * 40}{uid:07d}" for uid in range(LARGE)]


def report(
    metric: str, value: float, unit: str, baseline: float | None = None, ratio: float | None = None
) -> None:
    rounded = [None if n is None else round(n, 4) for n in (value, baseline, ratio)]
    line = {"metric": f"weights.{metric}", "value": rounded[0], "unit": unit}
    print(json.dumps({**line, "baseline": rounded[1], "ratio": rounded[2]}), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def forward(random: np.random.Generator, n: int, network: int = NETWORK) -> ForwardEvent:
    """An event as the querier records it: a question of some words, two reward functions, gating scores."""
    uids = random.choice(network, ASKED, replace=False)
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


async def record(history: RedisHistory, count: int, network: int = NETWORK) -> None:
    random = np.random.default_rng(0)
    for start in range(0, count, 100):
        events = [forward(random, start + i, network) for i in range(min(100, count - start))]
        await asyncio.gather(*(history.append(event, None, HOTKEYS[:network]) for event in events))


async def fold_from_redis(history: RedisHistory, state: ScoreState) -> float:
    """CPU seconds of folding all that is recorded out of Redis."""
    at, rule = ORIGIN, SoftmaxEma()
    start = time.process_time()
    while entries := await history.read(at, PAGE, None, decode_scored):
        scores.fold(state, [entry.event for entry in entries], rule)
        at = entries[-1].stream_id
    return time.process_time() - start


async def originals(history: RedisHistory, network: int) -> list[OriginalEvent]:
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
                hotkeys=HOTKEYS[:network],
            )
        )
    return found


def original_us(events: list[OriginalEvent], network: int, *, walk: bool) -> float:
    start = time.process_time()
    original_fold(events, network, walk=walk)
    return (time.process_time() - start) / len(events) * 1e6


def in_memory_us(events: list[ScoredEvent | MetagraphEvent], state: ScoreState) -> float:
    start = time.process_time()
    for at in range(0, len(events), PAGE):
        scores.fold(state, events[at : at + PAGE], SoftmaxEma())
    return (time.process_time() - start) / len(events) * 1e6


class Socket:
    """Copies replies out of the socket, and does nothing with them."""

    def __init__(self, server: RedisServer, key: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(server.socket))
        words = ("XRANGE", key, "-", "+", "COUNT", str(PAGE))
        self._ask = (f"*{len(words)}\r\n" + "".join(f"${len(w)}\r\n{w}\r\n" for w in words)).encode()
        self._room = bytearray(1 << 20)
        reader = hiredis.Reader(notEnoughData=None)
        self._socket.sendall(self._ask)
        self._size = 0
        while True:
            self._size += (got := self._socket.recv_into(self._room))
            reader.feed(self._room[:got])
            if reader.gets() is not None:
                break

    def us(self) -> float:
        start = time.process_time()
        for _ in range(20):
            self._socket.sendall(self._ask)
            left = self._size
            while left:
                left -= self._socket.recv_into(self._room)
        return (time.process_time() - start) / PAGE / 20 * 1e6


async def bench_fold(history: RedisHistory, large: RedisHistory, server: RedisServer) -> None:
    """Everything takes turns, so that a busy neighbour slows all of it."""
    events = await originals(history, NETWORK)
    events_large = await originals(large, LARGE)
    kept = [e.event for e in await history.read(ORIGIN, 10 * PAGE, None, decode_scored)]
    reading = Socket(server, history.keys.events)
    state, state_large, state_memory = ScoreState(), ScoreState(), ScoreState()
    times: dict[str, list[float]] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall = 0.0
    for _ in range(FOLDED // RECORDED):
        start = time.perf_counter()
        seconds = await fold_from_redis(history, state)
        wall += time.perf_counter() - start
        seconds_large = await fold_from_redis(large, state_large)
        for name, us in {
            "ours": seconds / RECORDED * 1e6,
            "ours, large": seconds_large / RECORDED_LARGE * 1e6,
            "ours, in memory": in_memory_us(kept, state_memory),
            "reading alone": reading.us(),
            "original": original_us(events, NETWORK, walk=True),
            "original, lists": original_us(events, NETWORK, walk=False),
            "original, large": original_us(events_large, LARGE, walk=True),
        }.items():
            times.setdefault(name, []).append(us)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    least = {name: min(found) for name, found in times.items()}
    for name, us in least.items():
        note(f"{name}: {us:.2f} us an event (median {np.median(times[name]):.2f})")
    for name, ours, original in (
        ("fold_vs_original", "ours", "original"),
        ("fold_vs_original.lists", "ours", "original, lists"),
        ("fold_vs_original.n1024", "ours, large", "original, large"),
        ("fold_vs_original.in_memory", "ours, in memory", "original"),
        ("fold_vs_original.read_alone", "reading alone", "original"),
    ):
        report(name, least[ours], "us/event", least[original], least[original] / least[ours])
    report("fold_events_per_s", FOLDED / wall, "events/s")
    report("fold_memory_growth_mb", grown, "MB")


async def bench_recovery(history: RedisHistory) -> None:
    done = asyncio.Event()
    last = await history.last_id()

    async def on_state(state: Any, checkpoint: Any, lease: Any) -> None:
        if checkpoint.last_id == last:
            done.set()

    runner = FoldRunner(
        history,
        ScoreFold(SoftmaxEma()),
        name=NAME,
        role=ROLE,
        holder="one",
        on_state=on_state,
        decode=decode_scored,
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
        large = RedisHistory(server.url, 2, timeout=timedelta(seconds=60))
        try:
            redis: Any = history._redis
            before = (await redis.info("memory"))["used_memory"]
            await record(history, RECORDED)
            used = ((await redis.info("memory"))["used_memory"] - before) / 2**20
            report("redis_mb_100k", used, "MB")
            await record(large, RECORDED_LARGE, LARGE)
            await bench_fold(history, large, server)
            await bench_recovery(history)
            await bench_takeover(history, server.url)
        finally:
            await history.close()
            await large.close()
            server.stop()


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    bench_rules()
    asyncio.run(on_redis())


if __name__ == "__main__":
    main()
