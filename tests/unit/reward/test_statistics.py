"""Running statistics: Welford with a cap, the normal distribution, and the fold over events."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coremesh.events import Flag, ForwardEvent, Message, forward_event
from coremesh.history.protocol import Entry
from coremesh.types import StreamId, new_event_id
from services.reward.config import Normalise
from services.reward.fold import StatisticsFold
from services.reward.statistics import Running, Statistics, normalise

RUNNING = Normalise(by="running", mean=0.0, deviation=1.0, prior=10)
VALUES = st.lists(st.floats(-1e6, 1e6), max_size=50)


def test_below_the_cap_it_is_the_mean_and_variance_of_all():
    values = np.random.default_rng(1).normal(3.0, 2.0, 500)
    seen = Running(0, 0.0, 0.0)
    seen.add(values, cap=3000)
    assert (seen.count, seen.mean, seen.variance) == (
        500,
        pytest.approx(values.mean()),
        pytest.approx(values.var()),
    )


def test_at_the_cap_old_values_fade():
    seen = Running(0, 0.0, 0.0)
    seen.add(np.full(1000, 5.0), cap=100)
    seen.add(np.random.default_rng(1).normal(-5.0, 1.0, 2000), cap=100)
    assert seen.count == 100
    assert seen.mean == pytest.approx(-5.0, abs=0.5)
    assert math.sqrt(seen.variance) == pytest.approx(1.0, abs=0.3)


@given(VALUES, VALUES)
def test_it_does_not_matter_how_values_are_cut(a: list[float], b: list[float]):
    whole, parts = Running(10, 0.0, 1.0), Running(10, 0.0, 1.0)
    whole.add(np.array([*a, *b]), cap=30)
    parts.add(np.array(a), cap=30)
    parts.add(np.array(b), cap=30)
    assert whole == parts


@given(st.floats(-1e6, 1e6), st.integers(1, 3000), st.floats(-1e6, 1e6), st.floats(0, 1e12))
def test_it_is_never_nan(value: float, count: int, mean: float, variance: float):
    statistics = Statistics(1, {"f": Running(count, mean, variance)})
    for rule in (RUNNING, Normalise(by="sigmoid", deviation=1e-3), Normalise(by="unit")):
        result = normalise(np.array([value]), rule, statistics, "f")
        assert np.isfinite(result).all()
        assert 0 <= result[0] <= 1


def test_a_value_is_placed_among_those_seen():
    statistics = Statistics(1, {"f": Running(100, 10.0, 4.0)})
    result = normalise(np.array([10.0, 12.0, 6.0]), RUNNING, statistics, "f")
    assert result == pytest.approx([0.5, 0.841345, 0.022750], abs=1e-6)


def event(values: list[float], *, stack: str = "v1", key: str = "f") -> ForwardEvent:
    n = len(values)
    return forward_event(
        id=new_event_id(),
        time_ms=0,
        block=1,
        kind="answer",
        flags=Flag.SCORED,
        messages=(Message("user", "Why?"),),
        uids=list(range(n)),
        hotkeys=[f"5H{i}" for i in range(n)],
        status=[0] * n,
        latency_s=[0.1] * n,
        rewards=values,
        parts={key: values, "mask:length": [1.0] * n, "other": [9.0] * n},
        stack_version=stack,
    )


def entries(*events: ForwardEvent) -> list[Entry]:
    return [Entry(StreamId(f"{i + 1}-0"), one) for i, one in enumerate(events)]


async def test_the_fold_learns_raw_values_of_its_own_stack_only():
    fold = StatisticsFold("v1", {"f": RUNNING, "other": Normalise()})
    history = entries(
        event([1.0, math.nan, 3.0]), event([100.0], stack="v2"), event([2.0], key="f.difference")
    )
    before = fold.initial()
    state = await fold.apply(before, history)
    wanted = Running(10, 0.0, 1.0)
    wanted.add(np.array([1.0, 3.0]), 3000)
    apart = Running(10, 0.0, 1.0)
    apart.add(np.array([2.0]), 3000)
    assert state == Statistics(2, {"f": wanted, "f.difference": apart})
    assert before == Statistics(0, {})
    assert fold.load(fold.dump(state)) == state


async def test_the_version_says_how_far_to_replay():
    fold = StatisticsFold("v1", {"f": RUNNING})
    history = entries(*(event([float(i), float(i * i)]) for i in range(20)))
    whole = await fold.apply(fold.initial(), history)
    state = fold.initial()
    for entry in history:
        state = fold.load(fold.dump(await fold.apply(state, [entry])))
    assert state == whole
    assert whole.version == 20


def test_another_stack_starts_anew():
    assert StatisticsFold("v1", {}).format != StatisticsFold("v2", {}).format
