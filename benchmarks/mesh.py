"""The whole mesh as its user meets it: ``python -m benchmarks.mesh [--here]``.

The files of this checkout are copied to a place of their own, installed there (``make install``) and started
(``coremesh up``) on ports of their own; ``--here`` leaves the first two out and reports no ``mesh.first_answer_s``.

- ``mesh.overhead_p50_ms.c10``, ``_p99_``: of 10 users who ask ``/inference`` and read all completions, what each
  waited beyond the slowest awaited miner (its latency from its own send) and the models (gating, filter and
  reward, as the querier timed them). Training is slowed down, so that users are what is measured.
  What a hop to another service takes counts as the model's there. ``mesh.overhead_with_hops_p50_ms.c10``,
  ``_p99_`` count as the models' only what gating, filter and reward say they took, waiting for the model included.
- ``mesh.cpu_ms.<process>``: CPU that each process spent for one of these answers, whatever else the machine did.
  ``users`` is this benchmark itself. ``mesh.processes``: how many they are, on ``baseline`` cores.
- ``mesh.rps_vs_litellm``: answers a second for 10 users, each from one miner chosen by gating without rewards, over
  those of a LiteLLM proxy with one worker whose only upstream is as quick as the miners were.
  ``mesh.rps_scored_share``: of ours, those that were scored afterwards (LiteLLM scores none); when it is crowded the
  querier leaves that out, see ``Forwarder``.
- ``mesh.loop_lag_p99_ms``: of the service whose event loop was latest under the first load.

``--load`` and ``--no-rps`` shorten it, for work on the mesh itself.

One JSON object a line on standard output, nothing else there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from benchmarks import mesh_litellm
from benchmarks.mesh_load import Load, inference, lag_buckets, load, quantile_of, unscored_total
from benchmarks.mesh_processes import cpu_s, processes
from services.querier.prompts import load_questions

ROOT = Path(__file__).resolve().parent.parent
BUDGET_S = 570
INSTALL_S = 240
START_S = 150
USERS = 10
WARM_S, LOAD_S, RPS_S = 5.0, 40.0, 15.0
EVENTS_PER_MINUTE = 6
"""Of training, beside the users."""
JSON = {"content-type": "application/json"}


def emit(metric: str, value: float | None, unit: str, baseline: float | None, better: float | None) -> None:
    row = {"metric": f"mesh.{metric}", "value": value, "unit": unit, "baseline": baseline, "ratio": better}
    print(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row."""
    for first in range(20_000 + os.getpid() % 5000 * 2, 32_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("there are no free ports")


def fresh_copy(to: Path) -> None:
    """The files of this checkout that git knows or would take, as a clone has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)


def install(copy: Path) -> Path | None:
    """``make install`` in a copy: its interpreter, or None when packages cannot be had."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    make = ["make", "-C", str(copy), "install", f"PYTHON={base if base.exists() else sys.executable}"]
    try:
        subprocess.run(make, check=True, timeout=INSTALL_S, stdout=sys.stderr, stderr=sys.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        note(f"no mesh.first_answer_s: make install: {error}")
        return None
    return copy / ".venv" / "bin" / "python"


@contextmanager
def running(python: Path, root: Path, work: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``coremesh up`` on seven ports from ``port`` on."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COREMESH_")}
    with (work / "up.log").open("wb") as output:
        process = subprocess.Popen(
            [
                *(str(python), "-c", "from coremesh.cli import main; main()", "up"),
                *("--dir", str(work / "devnet"), "--port", str(port)),
                *("--chain-port", str(port + 5), "--redis-port", str(port + 6)),
            ],
            cwd=root,
            stdout=output,
            stderr=output,
            env={**environment, "COREMESH_TRAINER_EVENTS_PER_MINUTE": str(EVENTS_PER_MINUTE)},
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def first_answer(client: httpx.AsyncClient, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask until there is an answer."""
    (body, *_) = inference(load_questions())
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the mesh ended: {log.read_text()[-2000:]}")
        try:
            answer = await client.post("/inference", content=body, headers=JSON)
            if answer.status_code == 200:
                return
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.2)
    raise RuntimeError(f"no answer within {START_S} s: {log.read_text()[-2000:]}")


async def measure_overhead(client: httpx.AsyncClient, port: int, supervisor: int, seconds: float) -> Load:
    """Ten users of /inference; reports their overhead, the services' lag and every process's CPU. Gives the load."""
    url = f"http://127.0.0.1:{port}/inference"
    bodies = inference(load_questions(), return_all=True)
    await load(url, bodies, users=USERS, seconds=WARM_S)
    services = {
        name: f"http://127.0.0.1:{port + i}"
        for i, name in enumerate(("querier", "gating", "reward", "weights", "trainer"))
    }
    pids = {**processes(supervisor), os.getpid(): "users"}
    before = {name: await lag_buckets(client, url) for name, url in services.items()}
    cpu_before = cpu_s(pids)
    done = await load(url, bodies, users=USERS, seconds=seconds)
    cpu_after = cpu_s(pids)
    after = {name: await lag_buckets(client, url) for name, url in services.items()}
    overheads = np.array([one.overhead_s for one in done.served]) * 1000
    if not overheads.size:
        raise RuntimeError(f"none of {done.failed} requests was answered")
    with_hops = np.array([one.own_s for one in done.served]) * 1000
    for name in ("overhead_s", "outside_s", "asking_s", "own_s", "miner_s", "models_s", "wall_s"):
        values = [getattr(one, name) * 1000 for one in done.served]
        note(f"{name[:-2]}: median {statistics.median(values):.1f} ms of {len(values)}; {done.failed} failed")
    lags = {name: quantile_of(before[name], after[name], 0.99) * 1000 for name in services}
    note("loop lag p99, ms: " + ", ".join(f"{name} {lag:.1f}" for name, lag in lags.items()))
    emit("overhead_p50_ms.c10", float(np.percentile(overheads, 50)), "ms", None, None)
    emit("overhead_p99_ms.c10", float(np.percentile(overheads, 99)), "ms", None, None)
    emit("overhead_with_hops_p50_ms.c10", float(np.percentile(with_hops, 50)), "ms", None, None)
    emit("overhead_with_hops_p99_ms.c10", float(np.percentile(with_hops, 99)), "ms", None, None)
    emit("loop_lag_p99_ms", max(v for v in lags.values() if math.isfinite(v)), "ms", None, None)
    asked = len(done.served)
    emit("processes", len(pids), "processes", os.cpu_count(), None)
    for name, spent in sorted(cpu_after.items()):
        emit(f"cpu_ms.{name}", (spent - cpu_before.get(name, 0.0)) / asked * 1000, "ms", None, None)
    busy = sum(cpu_after.values()) - sum(cpu_before.values())
    note(f"{asked} answers took {busy / asked * 1000:.1f} ms of CPU each, {busy / done.seconds:.2f} cores")
    return done


async def measure_rps(client: httpx.AsyncClient, port: int, work: Path, left_s: float) -> None:
    """Answers a second, ours and a LiteLLM proxy's."""
    url = f"http://127.0.0.1:{port}/inference"
    bodies = inference(load_questions(), return_all=True, top_k=1, use_reward_model=False)
    await load(url, bodies, users=USERS, seconds=WARM_S / 2)
    unscored = await unscored_total(client)
    ours = await load(url, bodies, users=USERS, seconds=RPS_S)
    scored = 1 - (await unscored_total(client) - unscored) / max(1, len(ours.served))
    emit("rps_scored_share", scored, "ratio", None, None)
    latency_s = statistics.median(one.miner_s for one in ours.served)
    text = ours.served[0].body["completion"]
    note(
        f"ours: {ours.rps:.1f} answers/s ({ours.failed} failed), the miner's median {latency_s * 1000:.1f} ms"
    )
    try:
        python = await asyncio.to_thread(mesh_litellm.interpreter, max(1.0, left_s - 120))
        first = free_ports(2)
        ports = (first, first + 1)
        async with mesh_litellm.proxy(python, work, ports=ports, latency_s=latency_s, text=text) as base:
            body = {"model": "fake", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
            url, bodies = f"{base}/v1/chat/completions", [json.dumps(body).encode()]
            headers = {"authorization": f"Bearer {mesh_litellm.KEY}"}
            await load(url, bodies, users=USERS, seconds=WARM_S, headers=headers)
            theirs = await load(url, bodies, users=USERS, seconds=RPS_S, headers=headers)
        if not theirs.in_time:
            raise mesh_litellm.NotAvailable(f"litellm answered none of {theirs.failed} requests")
    except mesh_litellm.NotAvailable as error:
        note(f"no mesh.rps_vs_litellm: {error}")
        emit("rps_vs_litellm", None, "ratio", None, None)
        return
    note(f"litellm: {theirs.rps:.1f} answers/s ({theirs.failed} failed)")
    emit("rps_vs_litellm", ours.rps / theirs.rps, "ratio", theirs.rps, ours.rps / theirs.rps)


async def measure(
    python: Path, root: Path, work: Path, begun: float, *, fresh: bool, load_s: float, rps: bool
) -> None:
    start = time.monotonic()
    port = free_ports(7)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
        with running(python, root, work, port) as process:
            await first_answer(client, process, work / "up.log")
            note(f"coremesh up to the first answer: {time.monotonic() - start:.1f} s")
            emit("first_answer_s", time.monotonic() - begun if fresh else None, "s", None, None)
            await measure_overhead(client, port, process.pid, load_s)
            if rps:
                await measure_rps(client, port, work, BUDGET_S - (time.monotonic() - begun))


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the whole mesh.")
    parser.add_argument("--here", action="store_true", help="start this checkout's own installation")
    parser.add_argument("--load", type=float, default=LOAD_S, metavar="SECONDS", help="of the first load")
    parser.add_argument("--no-rps", action="store_true", help="leave the comparison with LiteLLM out")
    given = parser.parse_args()
    here: bool = given.here
    with tempfile.TemporaryDirectory(prefix="coremesh-bench-") as directory:
        work = Path(directory)
        copy, python = work / "coremesh", None
        if here:
            note("no mesh.first_answer_s: --here")
        else:
            fresh_copy(copy)
        begun = time.monotonic()
        if not here:
            python = install(copy)
        fresh = python is not None
        root = copy if fresh else ROOT
        asyncio.run(
            measure(
                python or Path(sys.executable),
                root,
                work,
                begun,
                fresh=fresh,
                load_s=given.load,
                rps=not given.no_rps,
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
