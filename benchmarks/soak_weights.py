"""Weights set in every epoch, through restarts and kills: ``python -m benchmarks.soak_weights [--commit-reveal]``.

Two weights services as processes, a Redis and the embedded chain with blocks of 0.25 s; events flow all the while.
Three times the leader is killed, three times the chain is restarted and twice Redis, spread over the epochs. One
JSON line an epoch on standard output, then the metrics; exit code 1 when an epoch passed without weights, or when
what became of a submission is not known. 200 epochs of 6 s: twenty minutes.

An epoch must be longer than the machine's pauses and a lease together, or no leader can be replaced within it: where
processes wait seconds for a core, give ``--tempo`` and ``--lease`` more. A real epoch is 72 minutes, a lease 6 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import structlog

from coremesh.errors import ChainUnavailable, HistoryUnavailable
from coremesh.history import Submission
from coremesh.history.redis import RedisHistory
from coremesh.settings import ChainSettings
from coremesh.wire.wallets import load_keypair
from devnet.chain.testing import RunningChain, running_chain
from services.weights.chain.sdk import BittensorChain
from tests.integration.weights.processes import Crowd, WeightsProcess, replay
from tests.redis_server import RedisServer
from tests.wait import wait_until

BLOCK_S = 0.25
FAULTS = ("kill", "chain", "redis", "kill", "chain", "kill", "redis", "chain")
DOWN_S = 1.0
START_S = 300.0
CALL_S = 15.0
"""A node that shares two cores with this answers late; one that is gone refuses at once."""
LOST = ("sent", "committed")
"""Results that are not the end of a submission."""


@dataclass
class Network:
    """Everything that runs."""

    redis: RedisServer
    chain: RunningChain
    instances: list[WeightsProcess]
    done: list[str] = field(default_factory=list[str])

    async def fault(self, kind: str) -> None:
        """One of FAULTS, with all running again at its end."""
        if kind == "kill":
            leader = await self.leader()
            leader.end(signal.SIGKILL)
            await asyncio.sleep(DOWN_S)
            leader.start()
        elif kind == "chain":
            await asyncio.to_thread(self.chain.stop)
            await asyncio.sleep(DOWN_S)
            await asyncio.to_thread(self.chain.start)
        else:
            await asyncio.to_thread(self.redis.stop)
            await asyncio.sleep(DOWN_S)
            await asyncio.to_thread(self.redis.start)
        self.done.append(kind)

    async def leader(self) -> WeightsProcess:
        """The instance that leads."""

        async def look() -> WeightsProcess | None:
            for instance in self.instances:
                if 'coremesh_fold_leading{fold="scores"} 1.0' in await instance.metrics():
                    return instance
            return None

        found = await wait_until(look, timeout=START_S, why="somebody leads")
        assert found is not None
        return found


@dataclass
class Watch:
    """What the chain shows of our validator, block by block."""

    starts: list[int] = field(default_factory=list[int])
    """Blocks at which epochs began."""
    sets: set[int] = field(default_factory=set[int])
    """Blocks of our weights or commits."""

    def see(self, epoch_start: int, last_update: int) -> None:
        """Remember a look at the chain."""
        if not self.starts or epoch_start > self.starts[-1]:
            self.starts.append(epoch_start)
        self.sets.add(last_update)

    def set_in(self, n: int) -> list[int]:
        """Blocks of the n-th epoch seen in which weights were set."""
        return sorted(block for block in self.sets if self.starts[n] <= block < self.starts[n + 1])


async def watch(chain: BittensorChain, network: Network, epochs: int, tempo: int) -> Watch:
    """Look at the chain until ``epochs`` are over, and let things go wrong meanwhile."""
    seen = Watch()
    faults = {round(epochs * (n + 1) / (len(FAULTS) + 1)): kind for n, kind in enumerate(FAULTS)}
    told = 0
    failing: asyncio.Task[None] | None = None
    label = ""
    while told < epochs:
        await asyncio.sleep(BLOCK_S / 2)
        if failing is not None and failing.done():
            failing.result()  # what cannot be started again ends the soak
        try:
            tick = await chain.tick()
        except ChainUnavailable:
            continue
        seen.see(tick.epoch_start, tick.last_update[0])
        while told < len(seen.starts) - 1:
            line = {
                "epoch": told + 1,
                "start": seen.starts[told],
                "blocks": seen.starts[told + 1] - seen.starts[told],
                "set": seen.set_in(told),
                "fault": label,
            }
            if line["blocks"] > 2 * tempo:
                print(f"the watcher slept through epochs: {line}", file=sys.stderr)
            print(json.dumps(line), flush=True)
            told += 1
            label = ""
            if told in faults:
                if failing is not None:
                    await failing
                label = faults[told]
                failing = asyncio.create_task(network.fault(label))
    if failing is not None:
        await failing
    return seen


async def fates(history: RedisHistory) -> dict[str, Submission]:
    """The newest record of every submission, by its id, oldest first."""
    found: dict[str, Submission] = {}
    for entry in await history.submissions(20_000):
        found.setdefault(entry.submission.id, entry.submission)
    return dict(reversed(found.items()))


async def _settled(history: RedisHistory) -> bool:
    """Whether every submission older than the newest two has an end."""
    try:
        return all(s.result not in LOST for s in list((await fates(history)).values())[:-2])
    except HistoryUnavailable:
        return False


def report(metric: str, value: float, unit: str) -> None:
    line = {"metric": f"weights.{metric}", "value": value, "unit": unit, "baseline": None, "ratio": None}
    print(json.dumps(line), flush=True)


async def soak(directory: Path, epochs: int, tempo: int, lease_s: float, commit_reveal: bool) -> int:
    redis = RedisServer(directory)
    redis.start()
    history = RedisHistory(redis.url, 1, timeout=timedelta(seconds=2))
    with running_chain(
        directory, block_time=BLOCK_S, tempo=tempo, rate_limit=4, commit_reveal=commit_reveal
    ) as node:
        flags = (f"--weights.lease_s={lease_s}", f"--chain.timeout_s={CALL_S}", "--weights.interval_s=0.25")
        instances = [WeightsProcess(redis.url, node, directory, flags) for _ in range(2)]
        network = Network(redis, node, instances)
        chain = BittensorChain(
            ChainSettings(network=node.url, timeout_s=CALL_S),  # pyright: ignore[reportCallIssue]
            load_keypair(node.wallets_dir, "validator", "default"),
        )
        try:
            for instance in instances:
                instance.start()
            await wait_until(lambda: _published(history), timeout=START_S, why="a metagraph")
            crowd = Crowd(history)
            async with crowd.at_work(pause_s=0.05):
                await wait_until(lambda: _landed(history), timeout=START_S, why="the first weights")
                seen = await watch(chain, network, epochs, tempo)
                missed = sum(not seen.set_in(n) for n in range(epochs))
            await wait_until(
                lambda: _settled(history), timeout=START_S, every=0.5, why="every submission has an end"
            )
            found = await fates(history)
            for instance in instances:
                instance.end(signal.SIGTERM)
            code, proof = await asyncio.to_thread(replay, redis.url)
        finally:
            for instance in instances:
                instance.end()
            await chain.close()
            await history.close()
            redis.stop()
    ends = Counter(s.result for s in found.values())
    unknown = sum(s.result in LOST for s in list(found.values())[:-2])
    for s in found.values():
        if s.result not in ("landed", "revealed"):
            print(f"block {s.block}: {s.result} {s.reason}", file=sys.stderr)
    print(f"faults: {network.done}; events: {crowd.sent}; replay: {proof['note']}", file=sys.stderr)
    name = "soak_commit_reveal" if commit_reveal else "soak"
    report(f"{name}.epochs", epochs, "epochs")
    report(f"{name}.missed", missed, "epochs")
    for result, count in sorted(ends.items()):
        report(f"{name}.{result}", count, "submissions")
    report(f"{name}.unknown", unknown, "submissions")
    report(f"{name}.replay_equal", int(code == 0), "1: bit for bit")
    return 1 if missed or unknown or code or len(network.done) < len(FAULTS) else 0


async def _published(history: RedisHistory) -> bool:
    return await history.metagraph() is not None


async def _landed(history: RedisHistory) -> bool:
    return any(s.result in ("landed", "revealed") for s in (await fates(history)).values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--tempo", type=int, default=24, help="blocks an epoch")
    parser.add_argument("--lease", type=float, default=2.0, help="seconds a leader's lease lasts")
    parser.add_argument("--commit-reveal", action="store_true")
    parser.add_argument("--keep", help="a new folder for what the processes log; default: removed at the end")
    given = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    directory = Path(given.keep or tempfile.mkdtemp(prefix="coremesh-soak-"))
    directory.mkdir(exist_ok=True)
    try:
        return asyncio.run(soak(directory, given.epochs, given.tempo, given.lease, given.commit_reveal))
    finally:
        if not given.keep:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
