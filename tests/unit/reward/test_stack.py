"""How a reward is made of its parts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.reward.batch import Batch, Floats, Turn
from services.reward.config import Normalise
from services.reward.stack import Stack, Weighted
from services.reward.statistics import Running, Statistics
from services.reward.work import Inline


class Given:
    """A function or mask whose values the test gives."""

    def __init__(self, *values: float) -> None:
        self._values = values

    def key(self, batch: Batch) -> str:
        return "given.difference" if batch.difference else f"given{len(self._values)}"

    async def raw(self, batch: Batch) -> Floats:
        return np.array(self._values)

    async def values(self, batch: Batch) -> Floats:
        return np.array(self._values)


def batch(*completions: str) -> Batch:
    return Batch((Turn("user", "Why?"),), completions, "answer", Inline())


def stack(*functions: Weighted, **masks: Given) -> Stack:
    return Stack(version="v", functions={f"f{i}": f for i, f in enumerate(functions)}, masks=masks)


async def test_a_weighted_sum_times_masks():
    class Named(Given):
        def __init__(self, name: str, *values: float) -> None:
            super().__init__(*values)
            self._name = name

        def key(self, batch: Batch) -> str:
            return self._name

    running = Normalise(by="running")
    made = stack(
        Weighted(Named("a", 0.2, 0.4), 0.5),
        Weighted(Named("b", 1.0, 3.0), 2.0, running),
        m=Given(0.5, 1.0),
        n=Given(0.5, 1.0),
    )
    scored = await made.score(batch("x", "y"), Statistics(7, {"b": Running(100, 1.0, 4.0)}))
    assert {name: values.tolist() for name, values in scored.raw.items()} == {
        "a": [0.2, 0.4],
        "b": [1.0, 3.0],
    }
    assert scored.normalised["b"] == pytest.approx([0.5, 0.841345], abs=1e-6)
    assert {name: values.tolist() for name, values in scored.masks.items()} == {
        "m": [0.5, 1.0],
        "n": [0.5, 1.0],
    }
    assert scored.rewards == pytest.approx([(0.1 + 1.0) * 0.25, 0.2 + 2 * 0.841345], abs=1e-5)
    assert scored.stats_version == 7


async def test_a_mask_never_lifts_a_negative_sum():
    scored = await stack(Weighted(Given(-2.0, -1.0), 1.0), m=Given(0.0, 1.0)).score(
        batch("x", "y"), Statistics()
    )
    assert scored.rewards.tolist() == [-2.0, -1.0]


async def test_what_is_no_number_is_the_worst_of_its_batch():
    raw = Given(math.nan, 3.0, math.inf, -1.0)
    scored = await stack(Weighted(raw, 1.0), m=Given(1, math.nan, 1, 2)).score(batch(*"abcd"), Statistics())
    assert scored.raw["given4"].tolist() == [-1.0, 3.0, -1.0, -1.0]
    assert scored.rewards.tolist() == [-1.0, 0.0, -1.0, -1.0]


async def test_alone_and_no_number_is_the_mean():
    rule = Normalise(by="running", mean=4.0, deviation=2.0)
    scored = await stack(Weighted(Given(math.nan), 1.0, rule)).score(batch("x"), Statistics())
    assert scored.rewards.tolist() == [0.5]


async def test_what_is_no_number_is_the_worst_where_high_values_cost_too():
    raw = Given(math.nan, 0.9, 0.2, math.inf)
    scored = await stack(Weighted(raw, -1.0)).score(batch(*"abcd"), Statistics())
    assert scored.rewards.tolist() == [-0.9, -0.9, -0.2, -0.9]


async def test_an_empty_completion_earns_nothing():
    unseen = (" \u200b\u3164\ufeff", "", " \n", "x")
    scored = await stack(Weighted(Given(1.0, 1.0, 1.0, 1.0), 1.0)).score(batch(*unseen), Statistics())
    assert scored.rewards.tolist() == [0.0, 0.0, 0.0, 1.0]


async def test_no_completions_give_empty_arrays():
    scored = await stack(Weighted(Given(), 1.0), m=Given()).score(batch(), Statistics())
    assert (scored.rewards.tolist(), scored.raw["given0"].tolist(), scored.masks["m"].tolist()) == (
        [],
        [],
        [],
    )


def test_the_prompt_is_what_was_asked_last():
    def prompt(*turns: Turn) -> str:
        return Batch(turns, (), "answer", Inline()).prompt

    system = Turn("system", "Be brief and kind.")
    long = Turn("user", "How do vaccines train the immune system?")
    said = Turn("assistant", "They show it a germ.")
    assert prompt(system, long) == long.content
    assert (
        prompt(long, said, Turn("user", "And why does that last for years?"))
        == "And why does that last for years?"
    )
    assert prompt(system, long, said, Turn("user", "Why?")) == f"Why?\n{said.content}\n{long.content}"
    assert prompt(system, Turn("user", "Why?")) == "Why?"
    assert prompt(system) == system.content
    assert prompt(said) == said.content
