"""Users of a running mesh, all at once, and what each of them waited for."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx

from benchmarks.mesh_user import NotAnswered, User

_UNSCORED = re.compile(r'^coremesh_degraded_total\{part="reward"\} (\S+)$', re.MULTILINE)
_LAG = re.compile(r'^coremesh_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Served:
    """One answered request, in seconds as its user saw it."""

    wall_s: float
    raw: bytes

    @cached_property
    def body(self) -> dict[str, Any]:
        """Read when it is asked for: not while the load lasts."""
        return json.loads(self.raw)

    @property
    def miner_s(self) -> float:
        """The slowest miner that was waited for."""
        return max((item["latency_s"] for item in self.body.get("completions") or ()), default=0.0)

    @property
    def models_s(self) -> float:
        """What gating, filter and reward took, as the querier timed them."""
        timings = self.body["timings"]
        return timings["gating"] + timings["filter"] + timings["reward"]

    @property
    def overhead_s(self) -> float:
        """All the rest."""
        return max(0.0, self.wall_s - self.miner_s - self.models_s)

    @property
    def outside_s(self) -> float:
        """Of the overhead: before the forward began and after its answer, on both sides of the connection."""
        return self.wall_s - self.body["timings"]["total"]

    @property
    def asking_s(self) -> float:
        """Of the overhead: asking miners, beyond the slowest one's latency from its own send."""
        return self.body["timings"]["query"] - self.miner_s

    @property
    def own_s(self) -> float:
        """All but the slowest miner and what gating, filter and reward say they took: the way to them counts too."""
        return max(0.0, self.wall_s - self.miner_s - self.body["timings"]["models"])


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load: the answered requests, how many failed, and how long it lasted until the last was over.

    Users asked for `asked_s` seconds, in which `in_time` answers came.
    """

    served: list[Served]
    failed: int
    seconds: float
    asked_s: float
    in_time: int

    @property
    def rps(self) -> float:
        """While users asked: one request that hangs at the end would make all the others look slow."""
        return self.in_time / self.asked_s


async def load(
    url: str,
    bodies: Iterable[bytes],
    *,
    users: int,
    seconds: float,
    headers: dict[str, str] | None = None,
) -> Load:
    """``users`` who POST the next of ``bodies`` (round and round) to ``url`` as soon as they are answered."""
    served: list[Served] = []
    failed = in_time = 0
    turn = itertools.cycle(bodies)
    start = time.perf_counter()

    async def use() -> None:
        nonlocal failed, in_time
        user = User(url, headers=headers)
        while time.perf_counter() - start < seconds:
            try:
                heard = await user.ask(next(turn))
            except NotAnswered:
                heard = None
            if heard is not None and heard.status == 200:
                served.append(Served(heard.wall_s, heard.body))
                in_time += time.perf_counter() - start <= seconds
            else:
                failed += 1
                await asyncio.sleep(0.05)
        user.close()

    await asyncio.gather(*(use() for _ in range(users)))
    return Load(served, failed, time.perf_counter() - start, seconds, in_time)


def inference(questions: Iterable[str], **fields: Any) -> list[bytes]:
    """Bodies that ask ``/inference`` each of ``questions``."""
    return [
        json.dumps({"messages": [{"role": "user", "content": question}], **fields}).encode()
        for question in questions
    ]


async def lag_buckets(client: httpx.AsyncClient, url: str) -> dict[float, float]:
    """Cumulated counts of a service's event-loop lag, by upper bound in seconds."""
    text = (await client.get(f"{url}/metrics")).text
    return {float(bound): float(count) for bound, count in _LAG.findall(text)}


async def unscored_total(client: httpx.AsyncClient) -> float:
    """Forwards that the querier recorded without rewards since its start."""
    found = _UNSCORED.search((await client.get("/metrics")).text)
    return float(found[1]) if found else 0.0


def quantile_of(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """A quantile of what was observed in between, by linear interpolation within its bucket; NaN for nothing."""
    total = after.get(float("inf"), 0.0) - before.get(float("inf"), 0.0)
    if total <= 0:
        return float("nan")
    low, below = 0.0, 0.0
    for bound in sorted(after):
        count = after[bound] - before.get(bound, 0.0)
        if count >= share * total:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (share * total - below) / max(count - below, 1e-9)
        low, below = bound, count
    return low
