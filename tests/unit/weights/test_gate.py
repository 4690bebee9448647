from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.weights.compute import EMPTY, Vector
from services.weights.gate import Evidence, Thresholds, distance, hold

GOOD = Evidence(
    vector=Vector((0, 1), (0.25, 0.75), (21845, 65535)),
    scores_finite=True,
    no_history=False,
    events=10,
    miners=5,
    metagraph_age_blocks=3,
    event_age=timedelta(seconds=2),
    previous={0: 65535, 1: 65535},
)
STRICT = Thresholds(
    min_events=10,
    min_miners=5,
    max_move=0.5,
    max_metagraph_age_blocks=3,
    max_event_age=timedelta(seconds=2),
)


def codes(evidence: Evidence, thresholds: Thresholds = STRICT) -> list[tuple[str, bool]]:
    return [(reason.code, reason.soft) for reason in hold(evidence, thresholds)]


def test_what_is_just_within_every_threshold_passes() -> None:
    assert codes(GOOD) == []


@pytest.mark.parametrize(
    ("change", "code", "soft"),
    [
        ({"vector": EMPTY, "previous": None}, "empty", False),
        ({"scores_finite": False}, "not_finite", False),
        ({"vector": Vector((0, 1), (0.5, 0.5), (65535, 65535))}, "all_equal", False),
        ({"metagraph_age_blocks": 4}, "stale_metagraph", False),
        ({"previous": {0: 65535}}, "moved", False),
        ({"events": 9}, "few_events", True),
        ({"miners": 4}, "few_miners", True),
        ({"event_age": timedelta(seconds=3)}, "stale_events", True),
    ],
)
def test_each_reason_alone(change: dict, code: str, soft: bool) -> None:
    assert codes(replace(GOOD, **change)) == [(code, soft)]


def test_without_history_equal_weights_need_no_quorum() -> None:
    equal = Vector((0, 1), (0.5, 0.5), (65535, 65535))
    first = replace(GOOD, vector=equal, no_history=True, events=0, miners=0, event_age=None, previous=None)
    assert codes(first) == []


def test_one_miner_alone_is_not_called_all_equal() -> None:
    assert codes(replace(GOOD, vector=Vector((1,), (1.0,), (65535,)), previous=None)) == []


def test_distance_is_between_0_and_2() -> None:
    vector = GOOD.vector
    assert distance(vector, {0: 21845, 1: 65535}) == 0
    assert distance(vector, {7: 1}) == 2
    assert distance(vector, {0: 65535, 1: 65535}) == pytest.approx(0.5)
