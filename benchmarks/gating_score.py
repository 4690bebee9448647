"""What POST /score takes over the encoder's own time: ``python -m benchmarks.gating_score``.

The app serves on loopback, with a head taught on 256 miners, to a client in a process of its own; each prompt is new.
From what the client sees of a request, the time is taken off that the encoder took for that very request.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import numpy as np
import structlog
import torch
import uvicorn
import uvloop

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
    """The encoder of the service, with the milliseconds that each of its calls took."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self._encoder = encoder
        self.dim, self.identity = encoder.dim, encoder.identity
        self.took: list[float] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        start = time.perf_counter()
        try:
            return self._encoder.encode(texts)
        finally:
            self.took.append((time.perf_counter() - start) * 1e3)


async def ask(port: int) -> list[float]:
    """Milliseconds of each answer, as a client in a process of its own sees them."""
    words = (sys.executable, "-m", "benchmarks.gating_score", "--client", str(port))
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


def client(port: int) -> None:
    """Ask new prompts one after another on one connection, and print what each took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    took: list[float] = []
    for number in range(ROUNDS + WARM_UP):
        body = json.dumps({"text": f"user: What is item {number} good for?", "k": 10})
        start = time.perf_counter()
        connection.request("POST", "/score", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        took.append((time.perf_counter() - start) * 1e3)
        if answer.headers.get("connection") == "close":
            connection.close()  # http.client opens the next by itself
        assert answer.status == 200
        assert len(json.loads(content)["chosen"]) == 10
    print(json.dumps(took[WARM_UP:]))


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
    asking = await ask(port)
    encoding = encoder.took[WARM_UP:]
    assert len(asking) == len(encoding) == ROUNDS, (
        "each request encodes one new prompt, nothing else is encoded"
    )
    server.should_exit = True
    await serving
    await history.close()
    whole, own = statistics.median(asking), statistics.median(encoding)
    print(f"/score p50 {whole:.2f} ms, the encoder p50 {own:.2f} ms", file=sys.stderr)
    over = round(statistics.median(a - e for a, e in zip(asking, encoding, strict=True)), 3)
    row = {"value": over, "unit": "ms", "baseline": 2.0, "ratio": round(2.0 / max(over, 1e-3), 3)}
    print(json.dumps({"metric": "gating.score_overhead_ms"} | row), flush=True)


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
