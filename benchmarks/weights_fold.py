"""What an event costs in the score fold, and in the original's.

``weights.fold_vs_original`` is our fold from Redis as the service runs it, lease, checkpoints and all, against the
original's loop on events in memory, walking the uids of a network of 256; ``.lists`` against its best form, ``.log``
against its loop on events as its event log keeps them, ``.n1024`` in a network of 1024, ``.in_memory`` with our events
in memory too, ``.python`` read and folded where nothing was compiled. ``.read_alone`` is what it would be if decoding
and folding cost nothing: copying the replies out of the socket.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import resource
import socket
import time

import hiredis
import numpy as np
import torch

from benchmarks.weights_original import LoggedEvent, OriginalEvent
from benchmarks.weights_original import fold as original_fold
from benchmarks.weights_recorded import HOTKEYS, LARGE, NETWORK, note, report
from coremesh.events import ForwardEvent, decode_scored
from coremesh.folding import FoldRunner
from coremesh.history import Checkpoint, Lease
from coremesh.history.page import Page, has_pages
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN
from services.weights import scores
from services.weights.fold import ScoreFold
from services.weights.rules import SoftmaxEma
from services.weights.scores import ScoreState
from tests.pages import fill
from tests.redis_server import RedisServer

ORIGINAL_EVENTS = 5_000
PYTHON_EVENTS = 20_000
PAGE = 320
ROUNDS = 5


class Cpu:
    """What the service's own fold costs, from taking the lease to the checkpoint at the last event."""

    def __init__(self, history: RedisHistory) -> None:
        self._history = history
        self._rounds = itertools.count()

    async def seconds(self) -> float:
        """CPU seconds of folding all that is recorded out of Redis, by a leader that has no checkpoint yet."""
        last, done = await self._history.last_id(), asyncio.Event()
        fold = ScoreFold(SoftmaxEma())

        async def on_state(state: ScoreState, checkpoint: Checkpoint, lease: Lease) -> None:
            if checkpoint.last_id == last:
                done.set()

        name = f"bench-{next(self._rounds)}"
        start = time.process_time()
        runner = FoldRunner(
            self._history,
            fold,
            name=name,
            role=name,
            holder="bench",
            on_state=on_state,
            decode=decode_scored,
            apply_page=fold.apply_page if fold.has_pages else None,
        )
        task = asyncio.create_task(runner.run())
        await done.wait()
        seconds = time.process_time() - start
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return seconds


async def python_us(history: RedisHistory, state: ScoreState) -> float:
    """Of a part of what is recorded."""
    at, events, rule = ORIGIN, 0, SoftmaxEma()
    start = time.process_time()
    while events < PYTHON_EVENTS and (entries := await history.read(at, PAGE, None, decode_scored)):
        scores.fold(state, [entry.event for entry in entries], rule)
        at = entries[-1].stream_id
        events += len(entries)
    return (time.process_time() - start) / events * 1e6


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


async def packed(history: RedisHistory, count: int) -> list[tuple[str, bytes]]:
    entries = await history.read(ORIGIN, count, decode=bytes)
    return [(entry.stream_id, entry.event) for entry in entries]


def logged(events: list[OriginalEvent]) -> list[LoggedEvent]:
    return [LoggedEvent(e.uids.tolist(), e.queried.tolist(), e.rewards.tolist(), e.hotkeys) for e in events]


def from_log_us(events: list[LoggedEvent], network: int) -> float:
    start = time.process_time()
    original_fold((event.tensors() for event in events), network, walk=True)
    return (time.process_time() - start) / len(events) * 1e6


def original_us(events: list[OriginalEvent], network: int, *, walk: bool) -> float:
    start = time.process_time()
    original_fold(events, network, walk=walk)
    return (time.process_time() - start) / len(events) * 1e6


def in_memory_us(page: Page, state: ScoreState) -> float:
    fold = ScoreFold(SoftmaxEma())
    start = time.process_time()
    for _ in range(10):
        fold.apply_page(state, page)
    return (time.process_time() - start) / page.count / 10 * 1e6


class Socket:
    """Copies replies out of the socket, and does nothing with them."""

    def __init__(self, server: RedisServer, key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        words = ("XRANGE", key, "-", "+", "COUNT", str(PAGE))
        self._ask = (f"*{len(words)}\r\n" + "".join(f"${len(w)}\r\n{w}\r\n" for w in words)).encode()
        self._room = bytearray(1 << 20)
        reader = hiredis.Reader(notEnoughData=None)
        self._socket.sendall(self._ask)
        self._size = 0
        while True:
            self._size += (got := self._socket.recv_into(self._room))
            reader.feed(bytes(self._room[:got]))
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
    log = logged(events)
    page = Page(10 * PAGE)
    if filled := has_pages():
        fill(page, await packed(history, page.most))
    ours, ours_large = Cpu(history), Cpu(large)
    reading = Socket(server, history.keys.events)
    state, state_memory = ScoreState(), ScoreState()
    times: dict[str, list[float]] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall = 0.0
    recorded, recorded_large = await history.length(), await large.length()
    for _ in range(ROUNDS):
        start = time.perf_counter()
        seconds = await ours.seconds()
        wall += time.perf_counter() - start
        seconds_large = await ours_large.seconds()
        for name, us in {
            "ours": seconds / recorded * 1e6,
            "ours, large": seconds_large / recorded_large * 1e6,
            "ours, in memory": in_memory_us(page, state_memory) if filled else math.nan,
            "ours, in Python": await python_us(history, state),
            "reading alone": reading.us(),
            "original": original_us(events, NETWORK, walk=True),
            "original, lists": original_us(events, NETWORK, walk=False),
            "original, from its log": from_log_us(log, NETWORK),
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
        ("fold_vs_original.log", "ours", "original, from its log"),
        ("fold_vs_original.n1024", "ours, large", "original, large"),
        ("fold_vs_original.in_memory", "ours, in memory", "original"),
        ("fold_vs_original.python", "ours, in Python", "original"),
        ("fold_vs_original.read_alone", "reading alone", "original"),
    ):
        report(name, least[ours], "us/event", least[original], least[original] / least[ours])
    report("fold_events_per_s", ROUNDS * recorded / wall, "events/s")
    report("fold_memory_growth_mb", grown, "MB")
