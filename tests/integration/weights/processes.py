"""Weights services as real processes, and a crowd of miners' events to fold."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from coremesh.errors import HistoryUnavailable
from coremesh.events import ForwardEvent
from coremesh.history.redis import RedisHistory
from devnet.chain.testing import RunningChain, free_port
from tests.events import make_event
from tests.wait import wait_until


@dataclass
class WeightsProcess:
    """``python -m services.weights`` against a Redis and a chain; its log goes to a file."""

    redis_url: str
    chain: RunningChain
    directory: Path
    flags: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        flags = {
            "redis.url": self.redis_url,
            "redis.timeout_s": "1",
            "chain.network": self.chain.url,
            "chain.timeout_s": "2",
            "chain.sync_blocks": "20",
            "wallet.path": str(self.chain.wallets_dir),
            "wallet.name": "validator",
            "http.port": str(self.port),
            "weights.interval_s": "0.1",
        }
        words = [f"--{name}={value}" for name, value in flags.items()]
        with (self.directory / f"weights-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.weights", *words, *self.flags],
                stdout=log,
                stderr=log,
                env={**os.environ, "BITTENSOR_RUNTIME_CACHE_DIR": str(self.directory / "runtime")},
            )

    def end(self, number: int = signal.SIGKILL) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process = None
        return code

    async def get(self, path: str) -> Any:
        async with httpx.AsyncClient(timeout=5) as client:
            return (await client.get(f"http://127.0.0.1:{self.port}{path}")).json()

    async def metrics(self) -> str:
        """What Prometheus would read, empty while it does not answer."""
        try:
            async with httpx.AsyncClient(timeout=2) as client:
                return (await client.get(f"http://127.0.0.1:{self.port}/metrics")).text
        except httpx.HTTPError:
            return ""

    async def ready(self) -> bool:
        try:
            return (await self.get("/readyz"))["ready"]
        except (httpx.HTTPError, ValueError):
            return False

    async def submissions(self, count: int = 100) -> list[dict[str, Any]]:
        return (await self.get(f"/submissions?count={count}"))["submissions"]


def replay(redis_url: str) -> tuple[int, dict[str, Any]]:
    """Run the proof as a process; its exit code and report."""
    done = subprocess.run(
        [sys.executable, "-m", "services.weights", "replay", "--json", "--redis.url", redis_url],
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, 1, 3), done.stderr
    return done.returncode, json.loads(done.stdout)


class Crowd:
    """Appends scored events of the network's miners: uid 2 is the best, then 3, and so on; some fail."""

    def __init__(self, history: RedisHistory, seed: int = 0) -> None:
        self._history = history
        self._random = random.Random(seed)
        self.sent = 0

    async def append(self, count: int = 1) -> None:
        for _ in range(count):
            hotkeys = await self._network()
            asked = self._random.sample(range(2, len(hotkeys)), 8)
            rewards = {
                uid: None if self._random.random() < 0.2 else self._random.gauss(4 - uid / 4, 0.3)
                for uid in asked
            }
            event = make_event(rewards, hotkeys={uid: hotkeys[uid] for uid in asked})
            if all(reward is None for reward in rewards.values()):
                continue
            await self._put(event, [hotkeys[uid] for uid in asked])
            self.sent += 1

    async def _network(self) -> list[str]:
        while True:
            try:
                metagraph = await self._history.metagraph()
            except HistoryUnavailable:
                await asyncio.sleep(0.05)
            else:
                assert metagraph is not None
                return metagraph.hotkeys

    async def _put(self, event: ForwardEvent, hotkeys: list[str]) -> None:
        """Until it is in: an append that failed may have arrived, and the event's id makes the next one safe."""
        while True:
            try:
                await self._history.append(event, None, hotkeys)
            except HistoryUnavailable:
                await asyncio.sleep(0.05)
            else:
                return

    @asynccontextmanager
    async def at_work(self, pause_s: float = 0.005) -> AsyncIterator[None]:
        """Append all the while, through outages of Redis. An event that was begun is finished and counted."""
        over = asyncio.Event()

        async def work() -> None:
            while not over.is_set():
                await self.append()
                await asyncio.sleep(pause_s)

        task = asyncio.create_task(work())
        try:
            yield
        finally:
            over.set()
            await task


async def folded(weights: WeightsProcess, events: int) -> dict[str, Any]:
    """The scores, once they hold so many events."""

    seen: dict[str, Any] = {}

    async def look() -> dict[str, Any] | None:
        try:
            scores = await weights.get("/scores")
        except (httpx.HTTPError, ValueError):
            return None
        seen.update(scores)
        return scores if scores.get("events") == events else None

    try:
        found = await wait_until(look, timeout=30, every=0.1, why=f"{events} events folded")
    except AssertionError as error:
        raise AssertionError(f"{error}; it holds {seen.get('events')}") from None
    assert found is not None
    return found
