"""What POST /score takes over the encoder's own time: ``python -m benchmarks.gating_score``.

The app serves on loopback in this process, with a head taught on 256 miners; each prompt is new. A prompt is encoded
directly, then another of the same length is asked over HTTP, in turns, so that a neighbour on the machine slows both.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import numpy as np
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

MINERS, STEPS, ASKED, ROUNDS = 256, 120, 50, 200


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


async def measure(url: str) -> None:
    history = RedisHistory(url, netuid=1)
    await teach(history)
    encoder = SentenceEncoder(resolve_model(MINILM))
    loops, health = Loops(lambda name, error: None), Health()
    app = create_gating_app(load(ALL_SECTIONS, [f"--redis.url={url}"]), encoder, loops, health)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    encoding: list[float] = []
    asking: list[float] = []
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60
    ) as client:
        deadline = time.monotonic() + 240
        while not server.started or (await client.get("/head")).json()["steps"] < STEPS:
            assert time.monotonic() < deadline, "the head was not learnt"
            await asyncio.sleep(0.1)
        for turn in range(ROUNDS + 10):
            start = time.perf_counter()
            await asyncio.to_thread(encoder.encode, [f"user: What is thing {1000 + turn} good for?"])
            middle = time.perf_counter()
            answer = await client.post(
                "/score", json={"text": f"user: What is item {1000 + turn} good for?", "k": 10}
            )
            end = time.perf_counter()
            assert len(answer.json()["chosen"]) == 10
            if turn >= 10:
                encoding.append((middle - start) * 1e3)
                asking.append((end - middle) * 1e3)
    server.should_exit = True
    await serving
    await history.close()
    whole, own = statistics.median(asking), statistics.median(encoding)
    print(f"/score p50 {whole:.2f} ms, the encoder p50 {own:.2f} ms", file=sys.stderr)
    over = round(whole - own, 3)
    row = {"value": over, "unit": "ms", "baseline": 2.0, "ratio": round(2.0 / max(over, 1e-3), 3)}
    print(json.dumps({"metric": "gating.score_overhead_ms"} | row), flush=True)


def main() -> None:
    torch.set_num_threads(1)
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
    main()
