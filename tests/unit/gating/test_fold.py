"""The fold: what counts, what is skipped, and that a checkpoint changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from services.gating.fold import GatingFold, GatingObservation
from services.gating.head import HeadMismatch
from services.gating.reliability import Reliability
from services.gating.targets import FAILURE

DIM = 8
KEYS = np.arange(1, 6, dtype=np.uint64)


def observation(seed: int, **changes) -> GatingObservation:
    rng = np.random.default_rng(seed)
    fields = {
        "embedding": rng.normal(size=DIM).astype(np.float32),
        "hotkeys": KEYS,
        "rewards": rng.normal(size=5).astype(np.float32),
        "ok": np.ones(5, dtype=bool),
        "latency_s": rng.uniform(0.5, 1.5, 5).astype(np.float32),
    }
    return GatingObservation(**{**fields, **changes})


def fold_of(*observations: GatingObservation) -> GatingFold:
    fold = GatingFold("bayes", DIM, "e")
    for each in observations:
        fold.apply(each)
    return fold


def test_a_checkpoint_between_any_two_events_changes_no_bit() -> None:
    steps = [observation(seed) for seed in range(80)]
    whole = fold_of(*steps).to_bytes()
    for cut in (0, 1, 31, 32, 33, 79):
        fold = GatingFold.from_bytes(fold_of(*steps[:cut]).to_bytes(), "bayes", DIM, "e")
        for step in steps[cut:]:
            fold.apply(step)
        assert fold.to_bytes() == whole
        assert fold.events == 80


def test_another_encoder_is_another_generation() -> None:
    with pytest.raises(HeadMismatch):
        GatingFold.from_bytes(fold_of(observation(1)).to_bytes(), "bayes", DIM, "other")


def test_what_teaches_the_head_nothing_still_tells_who_answers() -> None:
    useless = [
        observation(1, learn=False),
        observation(2, embedding=None),
        observation(3, embedding=np.full(DIM, np.nan, dtype=np.float32)),
        observation(4, embedding=np.zeros(DIM + 1, dtype=np.float32)),
    ]
    fold = fold_of(*useless)
    assert (fold.events, fold.learnt, fold.skipped) == (4, 0, 4)
    assert not fold.head.known(KEYS).any()
    assert (fold.reliability.success(KEYS) > 0.8).all()


def test_a_hotkey_named_twice_counts_once_and_none_is_nobody() -> None:
    doubled = observation(1, hotkeys=np.array([7, 0, 7, 8, 9], dtype=np.uint64))
    fold = fold_of(doubled)
    assert len(fold.head) == 3
    nobody = fold_of(observation(1, hotkeys=np.zeros(5, dtype=np.uint64)))
    assert (nobody.skipped, len(nobody.head)) == (1, 0)


def test_a_retired_hotkey_is_gone_from_head_and_reliability() -> None:
    fold = fold_of(*[observation(seed) for seed in range(40)])
    fold.retire(KEYS[:2])
    assert fold.head.known(KEYS).tolist() == [False, False, True, True, True]
    assert fold.reliability.success(KEYS)[:2].tolist() == [0.5, 0.5]
    assert np.isnan(fold.reliability.latency_s(KEYS)).tolist() == [True, True, False, False, False]


def test_the_slow_are_worth_less_within_a_short_deadline() -> None:
    latency = np.array([0.2, 0.2, 0.2, 5.0, 5.0])
    fold = fold_of(*[observation(seed, latency_s=latency, rewards=np.arange(5.0)) for seed in range(40)])
    x = observation(0).embedding
    assert x is not None
    patient = fold.scores(x[None], KEYS, 60.0)[0][0]
    hasty = fold.scores(x[None], KEYS, 1.0)[0][0]
    assert np.argmax(patient) == 4
    assert np.argmax(hasty) == 2
    assert np.abs(hasty[3:] - FAILURE).max() < 0.05
    assert np.abs(hasty[:3] - patient[:3]).max() < 1e-3


def test_one_that_went_down_is_passed_over_at_once_and_comes_back() -> None:
    up, down = np.ones(5, dtype=bool), np.arange(5) != 4
    fold = fold_of(*[observation(seed, ok=up, rewards=np.arange(5.0)) for seed in range(60)])
    x = observation(0).embedding
    assert x is not None
    assert np.argmax(fold.scores(x[None], KEYS)[0][0]) == 4
    for seed in range(4):
        fold.apply(observation(seed, ok=down, rewards=np.arange(5.0)))
    assert np.argmax(fold.scores(x[None], KEYS)[0][0]) == 3
    for seed in range(8):
        fold.apply(observation(seed, ok=up, rewards=np.arange(5.0)))
    assert np.argmax(fold.scores(x[None], KEYS)[0][0]) == 4


def test_reliability_bears_whatever_miners_send() -> None:
    known = Reliability()
    odd = np.array([np.nan, np.inf, -1.0, 0.0, 1e300])
    for _ in range(5):
        known.observe(KEYS, np.ones(5, dtype=bool), odd)
    for deadline in (None, 1e-9, 1e9):
        share = known.availability(KEYS, deadline)
        assert ((share > 0) & (share <= 1)).all()
    known.observe(KEYS, np.zeros(5, dtype=bool), odd)  # nobody answered: ours
    assert (known.success(KEYS) > 0.8).all()
