"""Does the miner client grow? A million signed requests, hostile miners among those asked.

``python -m benchmarks.soak_client [--requests N]``: about ten minutes of one core for the default of 1,000,000. Prints
JSON lines after 10 %, 20 %, 50 % and 100 %: resident memory, open sockets, and every table in the client. The baseline
is each one's bound: for memory what it was after 20 % plus ``GROWTH_MB``. Ends with exit code 1 when one is over.

Each query asks 60 honest hosts and 4 hostile ones, which answer from ever new addresses under ever new hotkeys: as
many as there are, so that whatever is kept for each of them shows. Every tenth query tells rewards too.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from benchmarks.fanout import hosts
from benchmarks.fanout_clients import hotkeys
from benchmarks.fanout_hosts import address
from coremesh.wire.adapters import BtauthAdapter, MinerRequest, RewardNotice
from coremesh.wire.btauth import Signer
from coremesh.wire.keys import keypair_from_uri
from services.querier.miners import MinerClient, MinerLimits, Target
from services.querier.miners.addresses import refusal

HONEST, HOSTILE = 60, 4
AT_ONCE = 12
TIMEOUT_S = 0.3
MARKS = (0.1, 0.2, 0.5, 1.0)
GROWTH_MB = 16.0
"""What resident memory may grow by from 20 % on: freed memory comes back to the system in steps of megabytes."""
BREAKERS = 8192
OBJECTS_GROWTH = 20_000
REQUEST = MinerRequest(("user",), ("A prompt of a kilobyte. " * 40,), TIMEOUT_S)

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
ATTACKS: tuple[tuple[bytes, str], ...] = (
    (b"", "never"),
    (b"", "hang up"),
    (b"noise, and no HTTP\r\n\r\n", ""),
    (_OK + b"content-length: 99999999\r\n\r\n", ""),
    (_OK + b"transfer-encoding: chunked\r\n\r\n" + b"10000\r\n%s\r\n" % (b"x" * 65_536) * 17, ""),
    (_OK + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00", ""),
    (b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n", ""),
    (_OK + b"".join(b"x-%d: y\r\n" % i for i in range(200)) + b"\r\n", ""),
    (_OK + b"content-length: 40000\r\n\r\n" + b"[" * 40_000, ""),
    (_OK + b"content-length: 20\r\n\r\n" + b'{"completion":  NaN}', ""),
    (_OK + b"content-length: 32\r\n\r\n" + b'{"completion": "Good, then gone."', "hang up"),
    (_OK + b"content-length: 100\r\n\r\n" + b'{"completion": "', "drip"),
)


class Hostile(asyncio.Protocol):
    """Does the next of ATTACKS to each connection."""

    turn = itertools.cycle(ATTACKS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.answered = False

    def data_received(self, data: bytes) -> None:
        if self.answered:
            return
        self.answered = True
        answer, then = next(self.turn)
        self.transport.write(answer)
        if then == "hang up":
            self.transport.close()
        elif then == "drip":
            self.drip()

    def drip(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"x")
            asyncio.get_running_loop().call_later(0.05, self.drip)


async def serve_hostile() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Hostile, "0.0.0.0", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def hostile() -> Iterator[int]:
    """Hostile miners on every address of this machine, in a process of their own; gives their port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.soak_client", "--hostile"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)


class Soak:
    """Asks until there have been enough requests, and says at each mark what there is."""

    def __init__(self, client: MinerClient, honest: list[Target], port: int, requests: int) -> None:
        self.client = client
        self.honest = honest
        self.port = port
        self.wanted = requests
        self.done = 0
        self.statuses: Counter[str] = Counter()
        self.marks = [int(share * requests) for share in MARKS]
        self.bounds: dict[str, float] = {}
        self.over: list[str] = []
        self.start = time.monotonic()

    def stranger(self, n: int) -> Target:
        """Never the same twice within a million."""
        host = f"127.{64 + n // 65_025 % 64}.{n // 255 % 255 + 1}.{n % 255 + 1}"
        return Target(HONEST + n % HOSTILE, f"5Stranger{n:039d}", host, self.port)

    async def user(self, numbers: Iterator[int]) -> None:
        while self.done < self.wanted:
            strangers = [self.stranger(next(numbers)) for _ in range(HOSTILE)]
            targets = [*self.honest, *strangers]
            answers = await self.client.query(targets, REQUEST)
            self.statuses.update(answer.status.name.lower() for answer in answers)
            self.done += len(answers)
            if sum(self.statuses.values()) // len(targets) % 10 == 0:
                self.client.send_rewards(
                    (target, RewardNotice(REQUEST, answer.completion, (0.5,)))
                    for target, answer in zip(targets, answers, strict=True)
                    if answer.ok
                )
            if self.marks and self.done >= self.marks[0]:
                self.mark(round(100 * self.marks.pop(0) / self.wanted))

    def mark(self, percent: int) -> None:
        gc.collect()
        limits = MinerLimits()
        sizes = self.client.gauges()
        now: dict[str, tuple[float, str, float | None]] = {
            "rss": (rss_mb(), "MB", None),
            "objects": (float(len(gc.get_objects())), "objects", None),
            "tasks": (float(len(asyncio.all_tasks())), "tasks", float(AT_ONCE + limits.max_sockets + 1)),
            "open_sockets": (float(open_sockets()), "sockets", float(limits.max_sockets + 8)),
            "sockets": (float(sizes["sockets"]), "sockets", float(limits.max_sockets)),
            "idle": (float(sizes["idle"]), "sockets", float(limits.max_sockets)),
            "waiting": (float(sizes["waiting"]), "requests", float(limits.max_waiting)),
            "breakers": (float(sizes["breakers"]), "hotkeys", float(BREAKERS)),
            "running": (float(sizes["running"]), "queries", float(AT_ONCE + limits.max_rewards_in_flight)),
            "rewards": (
                float(sizes["rewards"]),
                "notices",
                float(limits.max_rewards_queued + limits.max_rewards_in_flight),
            ),
            "addresses": (float(refusal.cache_info().currsize), "addresses", 16_384.0),
        }
        if percent == round(100 * MARKS[1]):
            self.bounds = {
                "rss": now["rss"][0] + GROWTH_MB,
                "objects": now["objects"][0] + OBJECTS_GROWTH,
            }
        for name, (value, unit, bound) in now.items():
            most = bound if bound is not None else self.bounds.get(name)
            report(f"{name}.at{percent}", value, unit, most)
            if most is not None and value > most:
                self.over.append(f"{name} at {percent} %: {value:g} over {most:g}")
        took = time.monotonic() - self.start
        cpu_us = sum(os.times()[:2]) / max(1, self.done) * 1e6
        note(f"{self.done} requests in {took:.0f} s, {cpu_us:.0f} us of CPU each: {dict(self.statuses)}")


def report(metric: str, value: float, unit: str, bound: float | None) -> None:
    ratio = bound / value if bound is not None and value > 0 else None
    row = {"metric": f"soak.client.{metric}", "value": value, "unit": unit, "baseline": bound, "ratio": ratio}
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def rss_mb() -> float:
    """Resident memory now; on systems without /proc the most there ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_sockets() -> int:
    """Sockets that this process has open; 0 on systems without /proc."""
    count = 0
    for descriptor in Path("/proc/self/fd").glob("*"):
        try:
            count += os.readlink(descriptor).startswith("socket:")
        except OSError:
            continue
    return count


async def soak(requests: int) -> int:
    signer = Signer(keypair_from_uri("//Validator"))
    with hosts(HONEST) as honest_port, hostile() as hostile_port:
        honest = [Target(i, key, address(i), honest_port) for i, key in enumerate(hotkeys(HONEST))]
        async with MinerClient(
            BtauthAdapter(signer), signer.hotkey, MinerLimits(allow_loopback=True)
        ) as client:
            run = Soak(client, honest, hostile_port, requests)
            numbers = itertools.count()
            async with asyncio.TaskGroup() as users:
                for _ in range(AT_ONCE):
                    users.create_task(run.user(numbers))
            counts = client.rewards
            note(
                f"rewards: {counts.queued} queued, {counts.delivered} delivered, {counts.dropped} dropped, "
                f"{counts.failed} failed"
            )
        left = open_sockets()
        report("open_sockets.closed", float(left), "sockets", 8.0)
        if left > 8:
            run.over.append(f"{left} sockets are open though the client is closed")
    for sentence in run.over:
        note(f"over its bound: {sentence}")
    return 1 if run.over else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Does the miner client grow?")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--hostile", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hostile:
        uvloop.run(serve_hostile())
        return 0
    return uvloop.run(soak(arguments.requests))


if __name__ == "__main__":
    sys.exit(main())
