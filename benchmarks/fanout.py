"""What asking K miners costs: our client, aiohttp, the Dendrite of bittensor 10, and bytes on sockets.

``python -m benchmarks.fanout`` (3 minutes on 2 cores). Each request carries a signature and about a kilobyte, each
answer about 300 bytes; K distinct hosts live in a process of their own, connections are kept, and only the CPU time of
the client's process counts. The clients take turns within one run. Metrics are JSON lines on standard output; what
they are made of goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from benchmarks import sdk10
from benchmarks.fanout_clients import CLIENTS, REQUEST, Client, hotkeys
from benchmarks.fanout_hosts import address
from coremesh.wire.btauth import Signer
from coremesh.wire.keys import keypair_from_uri

SLOWEST_MS, FASTEST_MS = 200.0, 20.0
WARM_UP = 5


def report(metric: str, value: float | None, unit: str, baseline: float | None, ratio: float | None) -> None:
    numbers = {"value": value, "baseline": baseline, "ratio": ratio}
    rounded = {name: None if number is None else round(number, 4) for name, number in numbers.items()}
    line = {"metric": f"fanout.{metric}", "unit": unit} | rounded
    print(
        json.dumps({key: line[key] for key in ("metric", "value", "unit", "baseline", "ratio")}), flush=True
    )


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def hosts(k: int, slow_ms: float = 0.0, fast_ms: float = 0.0) -> Iterator[int]:
    """K miners in another process; gives their port."""
    command = [sys.executable, "-m", "benchmarks.fanout_hosts", str(k), str(slow_ms), str(fast_ms)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)


class Dendrite:
    """The kept-session Dendrite, in its own interpreter and process."""

    def __init__(self, interpreter: Path, k: int, port: int) -> None:
        script = Path(__file__).with_name("fanout_dendrite.py")
        self.k = k
        self.process = subprocess.Popen(
            [interpreter, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        targets = [(hotkey, address(i), port) for i, hotkey in enumerate(hotkeys(k))]
        self._write(json.dumps({"targets": targets, "messages": REQUEST.messages}))
        self.cpu_us(WARM_UP)

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def cpu_us(self, times: int) -> float:
        """Microseconds of CPU per request over ``times`` rounds."""
        self._write(str(times))
        assert self.process.stdout is not None
        result = json.loads(self.process.stdout.readline())
        assert result["ok"] == times * self.k, result
        return result["cpu_s"] / times / self.k * 1e6

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


async def opened(names: tuple[str, ...], k: int, port: int) -> dict[str, Client]:
    signer = Signer(keypair_from_uri("//Validator"))
    clients: dict[str, Client] = {name: CLIENTS[name](k, port, signer) for name in names}
    for client in clients.values():
        await client.open()
        for _ in range(WARM_UP):
            assert await client.ask() == k
    return clients


async def cpu(k: int, rounds: int, interpreter: Path | None) -> dict[str, float]:
    """Median microseconds of CPU per request, by client, all in turns."""
    with hosts(k) as port:
        dendrite = Dendrite(interpreter, k, port) if interpreter is not None else None
        clients = await opened(tuple(CLIENTS), k, port)
        spent: dict[str, list[float]] = {name: [] for name in (*clients, "dendrite")}
        for turn in range(rounds):
            for name in sorted(clients, key=lambda name: hash((name, turn))):
                start = time.process_time()
                for _ in range(4):
                    assert await clients[name].ask() == k
                spent[name].append((time.process_time() - start) / 4 / k * 1e6)
            if dendrite is not None:
                spent["dendrite"].append(dendrite.cpu_us(1))
        for client in clients.values():
            await client.close()
        if dendrite is not None:
            dendrite.close()
    medians = {name: statistics.median(values) for name, values in spent.items() if values}
    note(f"K={k} CPU per request, us: " + ", ".join(f"{n} {v:.1f}" for n, v in medians.items()))
    return medians


async def tail(k: int, queries: int) -> dict[str, list[float]]:
    """Milliseconds from the slowest miner's sleep to the whole query's end, sorted, by client."""
    over: dict[str, list[float]] = {"ours": [], "aiohttp": []}
    with hosts(k, SLOWEST_MS, FASTEST_MS) as port:
        clients = await opened(tuple(over), k, port)
        for _ in range(queries):
            for name, client in clients.items():
                start = time.perf_counter()
                assert await client.ask() == k
                over[name].append((time.perf_counter() - start) * 1000 - SLOWEST_MS)
        for client in clients.values():
            await client.close()
    return {name: sorted(values) for name, values in over.items()}


async def run(rounds: int, queries: int, *, with_dendrite: bool) -> None:
    interpreter = sdk10.python() if with_dendrite else None
    k64 = await cpu(64, rounds, interpreter)
    k256 = await cpu(256, max(1, rounds // 2), None)
    for k, spent in ((64, k64), (256, k256)):
        value = spent["ours"] / spent["aiohttp"]
        report(f"cpu_vs_aiohttp.k{k}", value, "of aiohttp's CPU", 1.0, 1 / value)
    if "dendrite" in k64:
        value = k64["ours"] / k64["dendrite"]
        report("cpu_vs_dendrite.k64", value, "of the kept-session Dendrite's CPU", 1.0, 1 / value)
    else:
        report("cpu_vs_dendrite.k64", None, "of the kept-session Dendrite's CPU", None, None)
    value = k64["ours"] / k64["floor"]
    report("cpu_vs_floor.k64", value, "of the floor's CPU", 1.0, 1 / value)
    over = await tail(64, queries)
    for name, share in (("tail_p50_ms.k64", 0.5), ("tail_p99_ms.k64", 0.99)):
        ours, aiohttp = (values[min(len(values) - 1, int(share * len(values)))] for values in over.values())
        report(name, ours, "ms over the slowest miner", aiohttp, aiohttp / ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--no-dendrite", action="store_true", help="leave out bittensor 10")
    arguments = parser.parse_args()
    uvloop.run(run(arguments.rounds, arguments.queries, with_dendrite=not arguments.no_dendrite))


if __name__ == "__main__":
    main()
