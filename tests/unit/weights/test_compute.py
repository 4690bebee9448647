from __future__ import annotations

import math

import numpy as np
import pytest
from bittensor.intents import normalize
from bittensor.intents.weights import clip_to_max_weight
from hypothesis import given, settings
from hypothesis import strategies as st

from services.weights.compute import EMPTY, U16, Limits, Vector, compute_weights

SCORES = st.lists(st.one_of(st.just(0.0), st.floats(0, 1), st.just(math.nan)), min_size=1, max_size=60)


def weights(scores: list[float], no_history="uniform", **limits) -> Vector:
    return compute_weights(np.array(scores), Limits(size=len(scores), **limits), no_history=no_history)


def test_scores_become_shares_and_u16() -> None:
    assert weights([0.25, math.nan, 0.75, 0.0]) == Vector((0, 2), (0.25, 0.75), (round(65535 / 3), 65535))


def test_without_history_all_are_equal_or_nothing_is_set() -> None:
    assert weights([0.0, 0.0, 0.0]) == Vector((0, 1, 2), (1 / 3,) * 3, (65535,) * 3)
    assert weights([0.0, 0.0, 0.0], no_history="skip") == EMPTY


def test_a_network_of_nobody_and_infinite_scores_give_nothing_to_set() -> None:
    assert weights([]) == EMPTY
    assert weights([math.inf, 1.0]).uids == (1,)


def test_scores_beyond_the_network_are_left_out_and_new_uids_are_0() -> None:
    assert compute_weights(np.array([0.5, 0.5, 1.0]), Limits(size=2), no_history="skip").uids == (0, 1)
    assert compute_weights(np.array([0.5]), Limits(size=3), no_history="skip").uids == (0,)


def test_the_minimum_is_filled_with_the_smallest_weight_best_first_and_validators_last() -> None:
    scores = [0.0, 0.5, 0.0, 1e-9, 0.0]
    vector = weights(scores, min_weights=4, fill_last=frozenset({0}))
    assert (vector.uids, vector.values) == ((1, 2, 3, 4), (65535, 1, 1, 1))
    assert weights(scores, min_weights=2).uids == (1, 3)


def test_the_minimum_is_never_more_than_the_network() -> None:
    assert weights([0.0, 1.0], min_weights=1024).uids == (0, 1)


@pytest.mark.parametrize("max_weight", [6553, 20000, 655])
def test_the_maximum_weight_holds_on_the_values_the_chain_sees(max_weight: int) -> None:
    vector = weights([1.0, 0.5, 0.01, *([0.0] * 200)], max_weight=max_weight)
    assert max(vector.values) * U16 <= max_weight * sum(vector.values)


@settings(max_examples=200, deadline=None)
@given(SCORES, st.integers(1, 70), st.sampled_from([U16, 40000, 13107, 3000]))
def test_the_sdk_and_the_chain_take_every_vector_as_it_is(
    scores: list[float], min_weights: int, max_weight: int
) -> None:
    vector = weights(scores, min_weights=min_weights, max_weight=max_weight)
    n = len(scores)
    assert len(vector.uids) >= min(n, min_weights)
    assert max(vector.values) == U16
    assert min(vector.values) > 0
    assert math.isclose(sum(vector.weights), 1.0, rel_tol=1e-9)
    if n * max_weight > U16:
        assert max(vector.values) * U16 <= max_weight * sum(vector.values)
    # What the SDK makes of our values is our values.
    sent = [float(value) for value in vector.values]
    if max_weight < U16:
        sent = clip_to_max_weight(sent, max_weight / U16)
    if n * max_weight > U16:
        assert normalize(vector.uids, sent) == (list(vector.uids), list(vector.values))
