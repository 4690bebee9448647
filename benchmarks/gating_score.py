"""What POST /score takes over the encoder's own time: ``python -m benchmarks.gating_score``.

The app serves on loopback, with a head taught on 256 miners, to a client in a process of its own, which asks as a
querier does. Each prompt is new; it is asked about through HTTP and given to the encoder itself, in a thread of the
same process with nothing else to do, one after the other and every other time the other way round. The difference,
prompt by prompt, is what /score adds: thread switches and caches that got cold count as its own. CPU time is that of
the serving process for a request, without the encoder's thread while it encodes; it holds on a busy machine too.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import numpy as np
import structlog
import torch
import uvicorn
import uvloop

from coremesh.contracts import ChatMessage, ScoreRequest
from coremesh.events import Flag, Message, forward_event
from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph, Neuron
from coremesh.modelfiles import MINILM, resolve_model
from coremesh.service import Health, Loops
from coremesh.service.run import listen
from coremesh.settings import ALL_SECTIONS, load
from coremesh.types import new_event_id
from services.gating.app import create_gating_app
from services.gating.encoder import SentenceEncoder
from tests.redis_server import RedisServer

MINERS, STEPS, ASKED, ROUNDS, WARM_UP = 256, 120, 50, 200, 5


async def teach(history: RedisHistory) -> None:
    names = [f"5Miner{uid:04d}" for uid in range(MINERS)]
    neurons = tuple(
        Neuron(uid=uid, hotkey=name, coldkey=name, ip=f"10.1.{uid}.1", port=80)
        for uid, name in enumerate(names)
    )
    lease = await history.acquire("weights", "bench", timedelta(seconds=60))
    assert lease is not None
    await history.publish(Metagraph(netuid=1, block=1, time_ms=1, neurons=neurons), None, lease)
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        uids = rng.choice(MINERS, ASKED, replace=False)
        event = forward_event(
            id=new_event_id(),
            time_ms=1,
            block=1,
            kind="answer",
            flags=Flag.SCORED | Flag.TRAIN_GATING,
            messages=(Message("user", f"What is number {step} good for, and who found it?"),),
            uids=uids,
            hotkeys=[names[uid] for uid in uids],
            status=[0] * ASKED,
            latency_s=[0.2] * ASKED,
            rewards=rng.uniform(size=ASKED),
            available=MINERS,
        )
        await history.append(event, None, [names[uid] for uid in uids])


class TimedEncoder:
    """The encoder of the service, with the milliseconds of wall clock and of CPU that each of its calls took."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self._encoder = encoder
        self.dim, self.identity = encoder.dim, encoder.identity
        self.took: list[float] = []
        self.cpu: list[float] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        start, cpu = time.perf_counter(), time.thread_time()
        try:
            return self._encoder.encode(texts)
        finally:
            self.cpu.append((time.thread_time() - cpu) * 1e3)
            self.took.append((time.perf_counter() - start) * 1e3)


class Client:
    """A process of its own that asks when it is told to, on one connection."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, port: int) -> Client:
        pipe = asyncio.subprocess.PIPE
        words = (sys.executable, "-m", "benchmarks.gating_score", "--client", str(port))
        return cls(await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe))

    async def ask(self, prompt: str) -> float:
        """Milliseconds until the answer was read."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{prompt}\n".encode())
        return float(await self._process.stdout.readline())

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert await self._process.wait() == 0


def client(port: int) -> None:
    """Ask about each line of standard input, and print the milliseconds that its answer took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for line in sys.stdin:
        request = ScoreRequest(
            messages=(ChatMessage(role="user", content=line.strip()),),
            uids=tuple(range(MINERS)),
            k=10,
            random=False,
            deadline_s=10.0,
        )
        body = request.model_dump_json().encode()
        start = time.perf_counter()
        connection.request("POST", "/score", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        took = (time.perf_counter() - start) * 1e3
        if answer.headers.get("connection") == "close":
            connection.close()
        if connection.sock is None:
            connection.connect()  # before the next is timed
        assert answer.status == 200
        assert len(json.loads(content)["chosen"]) == 10
        print(took, flush=True)


async def measure(url: str) -> None:
    history = RedisHistory(url, netuid=1)
    await teach(history)
    encoder = TimedEncoder(SentenceEncoder(resolve_model(MINILM)))
    loops, health = Loops(lambda name, error: None), Health()
    app = create_gating_app(load(ALL_SECTIONS, [f"--redis.url={url}"]), encoder, loops, health)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    port = listener.getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        deadline = time.monotonic() + 240
        while not server.started or (await client.get("/head")).json()["steps"] < STEPS:
            assert time.monotonic() < deadline, "the head was not learnt"
            await asyncio.sleep(0.1)
    encoder.took.clear()
    rows = await rounds(await Client.start(port), encoder)
    server.should_exit = True
    await serving
    await history.close()
    report(np.array(rows)[WARM_UP:])


async def rounds(client: Client, encoder: TimedEncoder) -> list[tuple[float, float, float, float]]:
    """Of each prompt: the answer, the encoder alone, the encoder within the answer, and the answer's CPU time
    without the encoder, in milliseconds."""
    found: list[tuple[float, float, float, float]] = []
    with ThreadPoolExecutor(1) as alone:
        for number in range(ROUNDS + WARM_UP):
            prompt = f"What is item {number} good for?"
            whole = direct = within = cpu = 0.0
            for http_first in (number % 2 == 0, number % 2 == 1):
                encoder.took.clear()
                encoder.cpu.clear()
                if http_first:
                    start = time.process_time()
                    whole = await client.ask(prompt)
                    cpu = (time.process_time() - start) * 1e3 - encoder.cpu[0]
                    (within,) = encoder.took  # one call: each prompt is new, and nothing else is encoded
                else:
                    text = [f"user: {prompt}"]
                    await asyncio.get_running_loop().run_in_executor(alone, encoder.encode, text)
                    (direct,) = encoder.took
            found.append((whole, direct, within, cpu))
    await client.stop()
    return found


def report(rows: np.ndarray) -> None:
    whole, direct, within, cpu = rows.T
    print(
        f"/score p50 {np.median(whole):.2f} ms, the encoder alone p50 {np.median(direct):.2f} ms; "
        f"over the encoder's time within the same request p50 {np.median(whole - within):.2f} ms; "
        f"quartiles of what is added {np.percentile(whole - direct, [25, 50, 75]).round(2)} ms",
        file=sys.stderr,
    )
    for metric, value, limit in (
        ("score_overhead_ms", float(np.median(whole - direct)), 2.0),
        ("score_overhead_within_ms", float(np.median(whole - within)), 2.0),
        ("score_overhead_cpu_ms", float(np.median(cpu)), None),
    ):
        row = {"metric": f"gating.{metric}", "value": round(value, 3), "unit": "ms", "baseline": limit}
        ratio = None if limit is None else round(limit / max(value, 1e-3), 3)
        print(json.dumps(row | {"ratio": ratio}), flush=True)


def main() -> None:
    torch.set_num_threads(1)
    # Standard output is for the rows alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    directory = Path(tempfile.mkdtemp(prefix="coremesh-bench-"))
    server = RedisServer(directory)
    server.start()
    try:
        # The loop and parser of the service itself (coremesh/service/run.py).
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(server.url))
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        client(int(sys.argv[2]))
    else:
        main()
