"""The reward service over HTTP against its own engine, and users' latency beside training: `python -m
benchmarks.reward_service`.

The service is a process of its own with one compute thread; the engine runs here with one thread, on the same
texts, in rounds that alternate. One JSON object a line on standard output, nothing else there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import torch
import transformers

from benchmarks import reward_data as data
from devnet.chain.testing import free_port
from services.reward.engine import Group, load_classifier

ROUNDS = 5
LONGEST = 540
PROMPTS, K = 4, 50
CONCURRENT = 4
USERS, USER_K, PHASES = 20, 10, 5
USER_SHARE, TRAINING_SHARE = 0.2, 0.6
"""Of the device's time, together the 80% of the mixed load."""

STACK = """
[[function]]
type = "sequence_classifier"
model = "{model}"
max_tokens = {tokens}
text = {{ template = "plain", separator = "" }}
"""


def emit(metric: str, value: float, unit: str, baseline: float | None, ratio: float | None) -> None:
    row = {"metric": f"reward.{metric}", "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}
    print(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@asynccontextmanager
async def service(stack: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A running reward service and a client for it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.reward", f"--reward.stack={stack}", "--reward.device=cpu", "--reward.threads=1"),
        *("--log.level=info",),
        env={**os.environ, "COREMESH_HTTP_PORT": str(free_port())},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        address = ""
        while not address:
            line = (await asyncio.wait_for(process.stderr.readline(), 120)).decode()
            if not line:
                raise RuntimeError("the reward service did not start")
            found = re.search(r"listens on (http://[\d.:]+)", line)
            address = found.group(1) if found else ""
        drain = asyncio.create_task(process.stderr.read())
        async with httpx.AsyncClient(base_url=address, timeout=300) as client:
            yield client
        drain.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def groups(prompts: int, completions: int, seed: int) -> list[tuple[str, tuple[str, ...]]]:
    """The texts of the reward benchmark, no pair of them longer than the model takes.

    The service cuts long texts otherwise than the engine, which would compare different work.
    """

    def within(prompt: str, completion: str) -> str:
        return "".join(f" {word}" for word in completion.split()[: LONGEST - len(prompt.split())])

    found = data.groups(prompts, completions, seed=seed)
    return [(prompt, tuple(within(prompt, c) for c in own)) for prompt, own in found]


def body(prompt: str, completions: tuple[str, ...], kind: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": prompt}], "completions": completions, "kind": kind}


async def post(client: httpx.AsyncClient, request: dict[str, object]) -> tuple[float, list[float]]:
    """Seconds and rewards."""
    started = time.perf_counter()
    answer = await client.post("/reward", json=request)
    answer.raise_for_status()
    return time.perf_counter() - started, answer.json()["rewards"]


async def throughput(client: httpx.AsyncClient, model: Path) -> None:
    engine = load_classifier(model, max_tokens=LONGEST + 10)
    texts = groups(PROMPTS, K, seed=3)
    requests = [body(prompt, completions, "answer") for prompt, completions in texts]
    slots = asyncio.Semaphore(CONCURRENT)

    async def one(request: dict[str, object]) -> list[float]:
        async with slots:
            return (await post(client, request))[1]

    packed = [Group(prompt, completions) for prompt, completions in texts]
    ours: list[float] = []
    theirs: list[float] = []
    engine.score(packed[:1])
    await post(client, requests[0])
    for number in range(ROUNDS):
        started = time.perf_counter()
        wanted = await asyncio.to_thread(engine.score, packed)
        middle = time.perf_counter()
        got = await asyncio.gather(*map(one, requests))
        ended = time.perf_counter()
        error = max(float(np.abs(np.array(a) - b).max()) for a, b in zip(got, wanted, strict=True))
        assert error < 1e-4, f"the service's scores differ by {error}"
        theirs.append(middle - started)
        ours.append(ended - middle)
        note(f"  round {number + 1}: engine {theirs[-1]:.2f} s, service {ours[-1]:.2f} s")
    n = PROMPTS * K
    # Rounds are pairs taken one after the other, so that a neighbour on the machine slows both.
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    emit("http_of_engine", n / statistics.median(ours), "completions/s", n / statistics.median(theirs), ratio)


async def latency(client: httpx.AsyncClient) -> None:
    """Users alone and users beside training, in phases that alternate, so that a neighbour on the machine slows both.

    Each phase's load is a share of the device's time as it was measured in the idle phase just before.
    """
    users = [body(p, c, "inference") for p, c in groups(USERS * PHASES, USER_K, seed=4)]
    training = [body(p, c, "answer") for p, c in groups(2 * PHASES, K, seed=5)]
    draw = np.random.default_rng(6)
    await post(client, users[0])
    idle: list[float] = []
    busy: list[float] = []
    for phase in range(PHASES):
        mine = users[phase::PHASES]
        alone = [(await post(client, request))[0] for request in mine]
        heavy = [(await post(client, request))[0] for request in training[phase::PHASES]]
        every = statistics.mean(heavy) / TRAINING_SHARE
        load = asyncio.create_task(open_loop(client, training, every, draw, None))
        beside = await open_loop(client, mine, statistics.mean(alone) / USER_SHARE, draw, len(mine))
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        idle += alone
        busy += beside
        note(f"  phase {phase + 1}: p50 {milli(alone, 50):.0f} ms idle, {milli(beside, 50):.0f} ms busy")
    note(f"  p99 of {len(idle)}: {milli(idle, 99):.0f} ms idle, {milli(busy, 99):.0f} ms busy")
    ratio = milli(busy, 99) / milli(idle, 99)
    emit("interactive_p99_vs_idle", ratio, "times idle", 3.0, 3.0 / ratio)


def milli(seconds: list[float], percent: float) -> float:
    """A percentile, in milliseconds."""
    return 1e3 * float(np.percentile(seconds, percent))


async def open_loop(
    client: httpx.AsyncClient,
    requests: list[dict[str, object]],
    every: float,
    draw: np.random.Generator,
    count: int | None,
) -> list[float]:
    """Send requests at random (Poisson) times whether or not earlier ones are answered; their seconds."""
    sent: list[asyncio.Task[tuple[float, list[float]]]] = []
    try:
        while count is None or len(sent) < count:
            await asyncio.sleep(draw.exponential(every))
            sent.append(asyncio.create_task(post(client, requests[len(sent) % len(requests)])))
        return [seconds for seconds, _ in await asyncio.gather(*sent)]
    finally:
        for task in sent:
            task.cancel()


async def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = data.saved(data.decoder(), Path(folder) / "decoder", framed=False)
        stack = Path(folder) / "stack.toml"
        stack.write_text(STACK.format(model=model, tokens=LONGEST + 10))
        async with service(stack) as client:
            note("decoder 6x512, K=50, over HTTP")
            await throughput(client, model)
            note("users (K=10) beside training (K=50), the device 80% busy")
            await latency(client)


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    asyncio.run(run())


if __name__ == "__main__":
    main()
