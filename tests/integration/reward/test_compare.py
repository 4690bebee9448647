"""``coremesh reward compare`` as a process on a real Redis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coremesh.events import Flag, Message, forward_event
from coremesh.history.redis import RedisHistory
from coremesh.types import new_event_id
from services.reward.compare import ranks, spearman

NAN = float("nan")


async def record(
    history: RedisHistory, uids: list[int], rewards: list[float], shadow: list[float] | None
) -> None:
    hotkeys = [f"5Hotkey{uid}" for uid in uids]
    parts = {} if shadow is None else {"shadow:two:reward": shadow, "shadow:two:relevance": shadow}
    event = forward_event(
        id=new_event_id(),
        time_ms=1,
        block=1,
        kind="answer",
        flags=Flag.SCORED,
        messages=(Message("user", "Why?"),),
        uids=uids,
        hotkeys=hotkeys,
        status=[0] * len(uids),
        latency_s=[0.1] * len(uids),
        rewards=rewards,
        parts=parts,
        stack_version="one",
    )
    await history.append(event, None, hotkeys)


def run(redis_url: str, *more: str) -> subprocess.CompletedProcess[str]:
    script = str(Path(sys.executable).with_name("coremesh"))
    words = [script, "reward", "compare", "--redis.url", redis_url, *more]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


async def test_agreement_correlation_and_weights(redis_history: RedisHistory, redis_url: str):
    await record(redis_history, [1, 2, 3, 4], [3.0, 2.0, 1.0, NAN], [3.0, 1.0, 2.0, NAN])
    await record(redis_history, [1, 2, 3], [1.0, 2.0, 3.0], None)
    await record(redis_history, [3, 2], [0.0, 1.0], [1.0, 0.0])
    done = run(redis_url, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    e = np.exp([3.0, 2.0, 1.0]) / np.exp([3.0, 2.0, 1.0]).sum()
    win, lose = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))
    a, b = 0.01, 0.99 * 0.01
    counting = np.array([a * e[0], b * e[1] + a * win, b * e[2] + a * lose, 0.0])
    shadow = np.array([a * e[0], b * e[2] + a * lose, b * e[1] + a * win, 0.0])
    counting, shadow = counting / counting.sum(), shadow / shadow.sum()
    weights = {row.pop("uid"): row for row in found.pop("weights")}
    assert found == {
        "stack": "one",
        "shadow": "two",
        "events": 2,
        "completions": 5,
        "best_agreement": 0.5,
        "pair_agreement": 0.5,
        "rank_correlation": pytest.approx((0.5 - 1) / 2),
        "weights_moved": pytest.approx(np.abs(counting - shadow).sum() / 2),
    }
    assert [weights[uid]["counting"] for uid in (1, 2, 3, 4)] == pytest.approx(counting)
    assert [weights[uid]["shadow"] for uid in (1, 2, 3, 4)] == pytest.approx(shadow)
    table = run(redis_url).stdout
    assert "shadow two beside one" in table
    assert "-0.250" in table
    assert "50.0%" in table


def test_nothing_recorded_and_nothing_there(redis_url: str):
    empty = run(redis_url, "--json")
    assert (empty.returncode, json.loads(empty.stdout)) == (0, [])
    assert "COREMESH_REWARD_SHADOW" in run(redis_url).stdout
    assert run("unix:///nowhere/redis.sock").returncode == 4
    assert run(redis_url, "--no.such=1").returncode == 2


def test_ranks_share_their_mean_and_equal_values_say_nothing():
    assert ranks(np.array([5.0, 1.0, 5.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    assert spearman(np.array([1.0, 1.0]), np.array([1.0, 2.0])) is None
    assert spearman(np.array([1.0, 2.0, 9.0]), np.array([0.1, 0.2, 0.3])) == pytest.approx(1.0)
