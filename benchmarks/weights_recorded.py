"""A history as the querier records it, for the benchmarks of the weights service, and how they report."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import numpy as np

from coremesh.events import Flag, ForwardEvent, Message, forward_event
from coremesh.history.redis import RedisHistory
from coremesh.types import new_event_id

NETWORK, LARGE, ASKED = 256, 1024, 50
HOTKEYS = [f"5{'F' * 40}{uid:07d}" for uid in range(LARGE)]


def report(
    metric: str, value: float, unit: str, baseline: float | None = None, ratio: float | None = None
) -> None:
    rounded = [None if n is None else round(n, 4) for n in (value, baseline, ratio)]
    line = {"metric": f"weights.{metric}", "value": rounded[0], "unit": unit}
    print(json.dumps({**line, "baseline": rounded[1], "ratio": rounded[2]}), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def forward(random: np.random.Generator, n: int, network: int = NETWORK) -> ForwardEvent:
    """An event as the querier records it: a question of some words, two reward functions, gating scores."""
    uids = random.choice(network, ASKED, replace=False)
    rewards = random.normal(size=ASKED).astype(np.float32)
    rewards[random.random(ASKED) < 0.2] = np.nan
    return forward_event(
        id=new_event_id(),
        time_ms=time.time_ns() // 1_000_000,
        block=1,
        kind="answer",
        flags=Flag.SCORED | Flag.TRAIN_GATING | Flag.RANDOM_SAMPLE,
        messages=(
            Message("system", "You answer questions truthfully and in a few sentences."),
            Message("user", f"Question {n}: how does a vaccine train the immune system, and for how long?"),
        ),
        uids=uids,
        hotkeys=[HOTKEYS[uid] for uid in uids],
        status=np.isnan(rewards),
        latency_s=random.random(ASKED),
        rewards=rewards,
        parts={"relevance": rewards, "diversity": random.random(ASKED)},
        gating=random.random(ASKED),
        best=0,
        available=NETWORK,
    )


async def record(history: RedisHistory, count: int, network: int = NETWORK) -> None:
    random = np.random.default_rng(0)
    for start in range(0, count, 100):
        events = [forward(random, start + i, network) for i in range(min(100, count - start))]
        await asyncio.gather(*(history.append(event, None, HOTKEYS[:network]) for event in events))
