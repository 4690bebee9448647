"""A history as the querier records it, for the benchmarks of the weights service, and how they report."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coremesh.events import Flag, ForwardEvent, Message, forward_event
from coremesh.history.redis import RedisHistory
from coremesh.types import new_event_id
from services.reward.config import read_config

Columns = NDArray[np.floating]

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


STACK = read_config(None)
"""The stack that rewards when nothing is configured: its parts are what events hold."""


def judged(random: np.random.Generator) -> tuple[Columns, dict[str, Columns]]:
    """Rewards of ASKED completions and what the default stack records of each, NaN for the fifth that failed: a cosine,
    masks that few fail, the curve of diversity, a length that is nearly always right."""
    some = random.random(ASKED)
    curve = 1 / (1 + np.exp(-(40 * random.uniform(0, 0.3, ASKED) - 4)))
    masks = {
        "blacklist": np.where(some < 0.02, 0.0, 1.0),
        "task_validator": np.where(some > 0.97, 0.0, 1.0),
        "diversity": 0.8 + 0.2 * curve,
        "length": np.where(random.random(ASKED) < 0.06, random.uniform(0.2, 1, ASKED), 1.0),
    }
    parts = {function.name or function.type: random.uniform(0.1, 0.8, ASKED) for function in STACK.function}
    rewards = np.sum(list(parts.values()), axis=0)
    for mask in STACK.mask:
        parts[f"mask:{mask.type}"] = masks[mask.type]
        rewards = rewards * masks[mask.type]
    failed = random.random(ASKED) < 0.2
    for values in (rewards, *parts.values()):
        values[failed] = np.nan
    return rewards.astype(np.float32), {name: values.astype(np.float32) for name, values in parts.items()}


def forward(random: np.random.Generator, n: int, network: int = NETWORK) -> ForwardEvent:
    """An event as services.querier.record makes it of a training step under the default stack."""
    uids = random.choice(network, ASKED, replace=False)
    rewards, parts = judged(random)
    drawn = random.random() < 0.5
    return forward_event(
        id=new_event_id(),
        time_ms=time.time_ns() // 1_000_000,
        block=5_000_000 + n // 3,
        kind="answer",
        flags=Flag.SCORED | Flag.TRAIN_GATING | (Flag.RANDOM_SAMPLE if drawn else Flag.NONE),
        messages=(
            Message("system", "You answer questions truthfully and in a few sentences."),
            Message("user", f"Question {n}: how does a vaccine train the immune system, and for how long?"),
        ),
        uids=uids,
        hotkeys=[HOTKEYS[uid] for uid in uids],
        status=np.isnan(rewards),
        latency_s=random.random(ASKED),
        rewards=rewards,
        parts=parts,
        gating=random.random(ASKED),
        best=int(np.nanargmax(rewards)),
        head_version=n,
        stack_version=f"{STACK.name}-0123456789ab",
        available=network,
        propensity=np.full(ASKED, ASKED / network) if drawn else random.uniform(0.05, 1, ASKED),
    )


APPEND_AGAIN = """
local after = '-'
for _ = 1, ARGV[1] do
    local rows = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 1000)
    if #rows == 0 then return end
    for _, row in ipairs(rows) do redis.call('XADD', KEYS[2], '*', unpack(row[2])) end
    after = '(' .. rows[#rows][1]
end
"""


async def lengthen(history: RedisHistory, long: RedisHistory, times: int) -> None:
    """Append what ``history`` holds to ``long``, so many times over: to record so much would take
    a quarter of an hour."""
    redis: Any = history._redis
    pages = -(-await history.length() // 1000)
    for _ in range(times):
        await redis.eval(APPEND_AGAIN, 2, history.keys.events, long.keys.events, pages)


async def record(history: RedisHistory, count: int, network: int = NETWORK) -> None:
    random = np.random.default_rng(0)
    for start in range(0, count, 100):
        events = [forward(random, start + i, network) for i in range(min(100, count - start))]
        await asyncio.gather(*(history.append(event, None, HOTKEYS[:network]) for event in events))
