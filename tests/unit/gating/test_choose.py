"""Choosing: bounded, distinct, fair to siblings, with honest propensities."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gating.choose import choose, sample, uniform
from services.gating.expect import expected_best, fewest


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_invariants(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    values = st.floats(allow_nan=True, allow_infinity=True)
    mean = np.array(data.draw(st.lists(values, min_size=n, max_size=n)))
    std = np.array(data.draw(st.lists(st.floats(0, 5), min_size=n, max_size=n)))
    candidates = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=40)), dtype=np.int64)
    groups = [np.array(data.draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)))]
    k = data.draw(st.one_of(st.integers(1, 40), st.just("auto")))
    k_max = data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    explore = data.draw(st.floats(0, 1))
    distinct = np.unique(candidates)
    picks = [choose(mean, std, candidates, k, rng=rng, explore=explore, k_max=k_max, groups=groups)]
    assert len(picks[0]) <= k_max
    if k != "auto":
        assert len(picks[0]) == min(k, k_max, distinct.size)
        picks += [uniform(candidates, k, rng=rng), sample(mean, std, candidates, k, rng=rng, groups=groups)]
        assert len(picks[1]) == len(picks[2]) == min(k, distinct.size)
    elif distinct.size:
        assert len(picks[0]) >= 1
    for pick in picks:
        assert np.unique(pick.indices).size == len(pick)
        assert np.isin(pick.indices, distinct).all()
        assert pick.propensities.shape == pick.indices.shape
        assert ((pick.propensities > 0) & (pick.propensities <= 1)).all()


def test_the_best_come_first() -> None:
    mean = np.array([0.1, 0.9, 0.5, 0.7])
    pick = choose(mean, np.ones(4), np.array([0, 2, 3, 1]), 3, rng=np.random.default_rng(0))
    assert pick.indices.tolist() == [1, 3, 2]
    assert pick.propensities.tolist() == [1.0, 1.0, 1.0]


def test_the_stated_propensities_are_the_frequencies() -> None:
    rng = np.random.default_rng(1)
    mean = np.linspace(1, 0, 12)
    asked, stated = np.zeros(12), np.zeros(12)
    for _ in range(6000):
        pick = choose(mean, np.zeros(12), np.arange(12), 5, rng=rng, explore=0.3)
        asked[pick.indices] += 1
        stated[pick.indices] = pick.propensities
    assert np.abs(asked / 6000 - stated).max() < 0.03
    assert stated[0] == 1.0
    assert stated[11] > 0.1


def test_siblings_are_not_all_asked_while_there_are_others() -> None:
    mean = np.linspace(1, 0, 20)
    coldkey = np.array([0] * 10 + list(range(1, 11)))
    network = np.array([-1] * 20)
    for explore in (0.0, 0.5):
        pick = choose(
            mean,
            np.ones(20),
            np.arange(20),
            6,
            rng=np.random.default_rng(0),
            explore=explore,
            groups=[coldkey, network],
            per_group=2,
        )
        assert (coldkey[pick.indices] == 0).sum() <= 2
    alone = choose(mean, np.ones(20), np.arange(10), 6, rng=np.random.default_rng(0), groups=[coldkey])
    assert len(alone) == 6  # nobody else to ask
    taught = sample(
        mean,
        np.zeros(20),
        np.arange(20),
        6,
        rng=np.random.default_rng(0),
        thompson=1.0,
        groups=[coldkey],
        per_group=2,
    )
    assert (coldkey[taught.indices] == 0).sum() == 2


def test_auto_stops_before_siblings_in_excess() -> None:
    coldkey = np.array([0] * 10 + list(range(1, 5)))
    for candidates, others in ((np.arange(14), 4), (np.arange(12), 2)):
        for explore in (0.0, 0.4):
            pick = choose(
                np.r_[np.full(10, 1.0), np.zeros(4)],
                np.ones(14),
                candidates,
                "auto",
                rng=np.random.default_rng(0),
                explore=explore,
                groups=[coldkey],
                noise=5.0,
            )
            assert (coldkey[pick.indices] == 0).sum() == 2
            assert len(pick) == 2 + others
    everyone = choose(
        np.zeros(10), np.ones(10), np.arange(10), "auto", rng=np.random.default_rng(0), groups=[coldkey]
    )
    assert len(everyone) > 5  # all are siblings: that tells nobody apart


def test_half_of_a_training_sample_is_uniform() -> None:
    rng = np.random.default_rng(2)
    counts = np.zeros(40)
    mean = np.r_[np.full(10, 5.0), np.zeros(30)]
    for _ in range(2000):
        counts[sample(mean, np.full(40, 0.1), np.arange(40), 10, rng=rng).indices] += 1
    # Five at random of 40, then the five best by their draws among the ten good.
    assert np.abs(counts[10:] / 2000 - 5 / 40).max() < 0.03
    assert counts[:10].min() / 2000 > 0.5


def test_expected_best_agrees_with_drawing() -> None:
    rng = np.random.default_rng(3)
    mean, std = rng.normal(size=20), rng.uniform(0.1, 1.0, 20)
    draws = np.maximum.accumulate(rng.normal(mean, std, (200_000, 20)), axis=1).mean(axis=0)
    assert np.abs(expected_best(mean, std) - draws).max() < 0.01


def test_auto_asks_few_when_sure_and_more_when_not() -> None:
    mean = np.r_[3.0, np.zeros(29)]
    sure = fewest(mean, np.full(30, 0.1), 0.97)
    unsure = fewest(np.zeros(30), np.full(30, 1.0), 0.97)
    assert sure == 1
    assert 15 < unsure < 30
    assert fewest(np.zeros(0), np.zeros(0), 0.97) == 0
    pick = choose(mean, np.full(30, 0.1), np.arange(30), "auto", rng=np.random.default_rng(0), noise=0.1)
    assert pick.indices.tolist() == [0]
