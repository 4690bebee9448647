"""Offline evaluation: estimates by inverse propensity against subnets whose true answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from coremesh.events import Change, Flag, ForwardEvent, MetagraphEvent, forward_event
from coremesh.types import new_event_id
from services.gating.contest import (
    CONTESTANTS,
    Contest,
    contestant,
    propensities,
    standard_error,
    value_of,
    windows,
    worth,
)
from tests.events import hotkey

DIM = 8
TRAIN = Flag.SCORED | Flag.TRAIN_GATING


def event(
    uids: np.ndarray,
    rewards: np.ndarray,
    *,
    available: int,
    chance: np.ndarray | None = None,
    flags: Flag = TRAIN,
) -> ForwardEvent:
    return forward_event(
        id=new_event_id(),
        time_ms=1,
        block=1,
        kind="answer",
        flags=flags,
        messages=(),
        uids=uids,
        hotkeys=[hotkey(int(uid)) for uid in uids],
        status=np.isnan(rewards).astype(int),
        latency_s=np.full(len(uids), 0.1),
        rewards=rewards,
        available=available,
        propensity=() if chance is None else chance,
    )


def contest(*names: str, k: int = 1) -> Contest:
    return Contest({name: contestant(name, DIM) for name in names}, k)


def test_a_sample_that_prefers_the_good_still_tells_what_the_average_is_worth() -> None:
    """60 miners worth 0 .. 0.98; the better a miner, the likelier it was asked. 15 of 60 are chosen."""
    rng = np.random.default_rng(0)
    quality = np.arange(60) / 60
    chance = 0.25 + 0.6 * quality
    run = contest("moving-average", "random", k=15)
    plain: list[float] = []
    for _ in range(1000):
        uids = np.flatnonzero(rng.random(60) < chance)
        rewards = quality[uids] + rng.normal(0, 0.05, uids.size)
        run.take(event(uids, rewards, available=60, chance=chance[uids]), np.ones(DIM, dtype=np.float32))
        plain.append(float(rewards.mean()))
    observed, best, moving, at_random = run.values[300:].mean(axis=0)
    true_best = quality[-15:].mean()
    assert np.mean(plain) > quality.mean() + 0.09  # what the sample shows as it is
    assert observed == pytest.approx(quality.mean(), abs=0.01)
    assert at_random == pytest.approx(quality.mean(), abs=0.02)
    assert moving == pytest.approx(true_best, abs=0.015)
    assert best == pytest.approx(true_best, abs=0.05)


def test_rules_that_see_the_prompt_find_specialists_and_forget_who_left() -> None:
    """Two topics, each known to one miner alone; whom to ask depends on the prompt."""
    rng = np.random.default_rng(1)
    topics = np.eye(2, DIM, dtype=np.float32)
    run = contest("bayes", "rls", "moving-average", "random")
    uids = np.arange(8)
    for _ in range(400):
        topic = int(rng.integers(2))
        rewards = 0.2 + rng.normal(0, 0.02, 8)
        rewards[topic] = 0.9
        x = topics[topic] + rng.normal(0, 0.05, DIM).astype(np.float32)
        run.take(event(uids, rewards, available=8), (x / np.linalg.norm(x)).astype(np.float32))
    late = run.values[100:].mean(axis=0)
    assert late == pytest.approx([0.2875, 0.9, 0.9, 0.9, 0.55, 0.2875], abs=0.05)
    gone = MetagraphEvent(
        id=new_event_id(), time_ms=1, block=2, size=8, changes=(Change(0, hotkey(0), "5New"),)
    )
    rule = contestant("moving-average", DIM)
    last = Contest({"moving-average": rule}, 1)
    last.take(event(uids, np.r_[0.9, np.full(7, 0.2)], available=8), topics[0])
    key = event(uids[:1], np.ones(1), available=1).hotkeys
    assert rule.rank(topics[0], key).tolist() == [pytest.approx(0.9)]
    last.take(gone, None)
    assert rule.rank(topics[0], key).tolist() == [0.0]


def test_it_chooses_before_it_learns() -> None:
    """One event: nobody can know anything yet, whatever stands first in the event."""
    found = []
    for seed in range(300):
        run = Contest({name: contestant(name, DIM) for name in CONTESTANTS}, 1, seed)
        run.take(event(np.arange(4), np.array([1.0, 0, 0, 0]), available=4), np.ones(DIM, dtype=np.float32))
        found.append(run.values[0])
    observed, best, *chosen = np.mean(found, axis=0)
    assert (observed, best) == (0.25, 1.0)
    names = dict(zip(CONTESTANTS, chosen, strict=True))
    untaught = {name: value for name, value in names.items() if not name.startswith("original")}
    assert all(value == pytest.approx(0.25, abs=0.09) for value in untaught.values()), untaught
    # The original's rows begin at random, by hotkey: the same hotkey is on top each time.
    assert {names["original"], names["original_zeroed"]} <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("chance", "available", "flags", "expected"),
    [
        ([0.5, 0.5], 4, TRAIN, [0.5, 0.5]),
        ([1.0, 0.01], 4, TRAIN, None),  # a choice, not a sample
        ([1.0, 1.0], 2, TRAIN, [1.0, 1.0]),  # everybody
        (None, 2, TRAIN, [1.0, 1.0]),
        (None, 4, TRAIN | Flag.RANDOM_SAMPLE, [0.5, 0.5]),
        (None, 4, TRAIN, None),
        ([0.0, 0.5], 4, TRAIN, None),
        ([float("nan"), 0.5], 4, TRAIN, None),
        ([0.5, 0.5], 4, Flag.TRAIN_GATING, None),  # nothing was scored
    ],
)
def test_what_stands_for_all(
    chance: list[float] | None, available: int, flags: Flag, expected: list[float] | None
) -> None:
    made = event(
        np.arange(2),
        np.ones(2),
        available=available,
        chance=None if chance is None else np.array(chance),
        flags=flags,
    )
    found = propensities(made)
    assert (None if found is None else found.tolist()) == expected


def test_the_best_share_of_the_weight_counts() -> None:
    ranks, rewards = np.array([1.0, 3.0, 2.0]), np.array([0.0, 1.0, 0.4])
    assert value_of(ranks, rewards, np.ones(3), 1 / 3) == 1.0
    assert value_of(ranks, rewards, np.ones(3), 0.5) == pytest.approx((1 + 0.5 * 0.4) / 1.5)
    assert value_of(ranks, rewards, np.array([1.0, 8.0, 1.0]), 0.1) == 1.0
    assert value_of(ranks, rewards, np.array([1.0, 1.0, 8.0]), 0.9) == pytest.approx((1 + 8 * 0.4) / 9)


def test_failures_are_worth_nothing_and_never_more_than_the_worst_answer() -> None:
    assert worth(np.array([np.nan, 2.0])).tolist() == [0.0, 2.0]
    assert worth(np.array([np.nan, -3.0])).tolist() == [-3.0, -3.0]
    assert worth(np.array([np.nan])).tolist() == [0.0]


def test_errors_count_a_prompt_once_however_often_it_came() -> None:
    values = np.array([1.0, 3.0, 2.0, 6.0])
    assert standard_error(values) == pytest.approx(values.std(ddof=1) / 2)
    assert standard_error(values, np.array([4, 1, 2, 3])) == pytest.approx(values.std(ddof=1) / 2)
    often = standard_error(np.repeat(values, 9), np.repeat(np.arange(4), 9))
    assert often == pytest.approx(values.std(ddof=1) / 2)
    assert standard_error(values, np.zeros(4, dtype=np.int64)) == standard_error(np.zeros(0)) == 0.0


def test_events_of_one_prompt_share_a_label() -> None:
    run, prompts = contest("random"), np.eye(3, dtype=np.float32)
    for at in (0, 1, 0, 2):
        run.take(
            event(np.arange(2), np.ones(2), available=2, chance=None, flags=TRAIN),
            prompts[at],
        )
    assert run.prompts.tolist() == [0, 1, 0, 2]


def test_a_curve_has_even_windows() -> None:
    ends, means = windows(np.arange(10.0)[:, None], 3)
    assert (ends, means.ravel().tolist()) == ([4, 7, 10], [1.5, 5.0, 8.0])
    ends, means = windows(np.arange(2.0)[:, None], 20)
    assert (ends, means.ravel().tolist()) == ([1, 2], [0.0, 1.0])
