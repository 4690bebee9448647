from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coremesh.events import Flag, ForwardEvent, forward_event
from coremesh.types import new_event_id
from coremesh.wire.status import Status
from services.querier.dashboard.learning import Lesson, Point, curve, lesson


def event(
    rewards: list[float],
    gating: list[float],
    *,
    propensity: tuple[float, ...] = (),
    flags: Flag = Flag.NONE,
    status: list[Status] | None = None,
) -> ForwardEvent:
    return forward_event(
        id=new_event_id(),
        time_ms=5,
        block=1,
        kind="answer",
        flags=flags,
        messages=(),
        uids=list(range(len(rewards))),
        hotkeys=["h"] * len(rewards),
        status=status or [Status.OK] * len(rewards),
        latency_s=[1.0] * len(rewards),
        rewards=rewards,
        gating=gating,
        head_version=4,
        propensity=propensity,
    )


def test_the_first_choice_is_the_one_gating_ranked_first() -> None:
    found = lesson(event([0.2, 0.8, 0.5], [0.1, 0.9, 0.3], flags=Flag.RANDOM_SAMPLE))
    assert found == Lesson(5, pytest.approx(0.8), pytest.approx(0.5), pytest.approx(0.8), 4)


def test_a_failure_counts_nothing() -> None:
    failed = event([np.nan, 0.6], [0.9, 0.1], flags=Flag.RANDOM_SAMPLE, status=[Status.TIMEOUT, Status.OK])
    assert lesson(failed) == Lesson(5, 0.0, pytest.approx(0.3), pytest.approx(0.6), 4)


def test_chance_is_estimated_from_the_odds() -> None:
    # The good one was nearly sure to be asked: it stands for itself, the other for three more like it.
    found = lesson(event([1.0, 0.0], [1.0, 0.0], propensity=(1.0, 0.25)))
    assert found is not None
    assert found.mean == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    "silent",
    [
        {"rewards": [0.5, 0.6], "gating": []},
        {"rewards": [0.5], "gating": [1.0], "flags": Flag.RANDOM_SAMPLE},
        {"rewards": [np.nan, np.nan], "gating": [1.0, 2.0], "flags": Flag.RANDOM_SAMPLE},
        {"rewards": [0.5, 0.6], "gating": [1.0, 2.0]},  # chosen, and nothing is known of the odds
        {"rewards": [0.5, 0.6], "gating": [1.0, 2.0], "propensity": (0.0, 1.0)},
    ],
)
def test_an_event_that_tells_nothing_gives_no_lesson(silent: dict[str, Any]) -> None:
    assert lesson(event(**silent)) is None


def points(lessons: list[Lesson], begin: int = 0) -> list[tuple[int, float, int]]:
    return [(p.time_ms, p.first, p.events) for p in curve(lessons, begin, points=4, least=1)]


def test_a_curve_is_of_means_over_groups_that_stay_where_they_are() -> None:
    lessons = [Lesson(n, float(n), 0.5, 9.0, n) for n in range(9)]
    assert curve([]) == []
    assert points(lessons[:1]) == [(0, 0.0, 1)]
    assert points(lessons[:4]) == [(n, float(n), 1) for n in range(4)]
    assert points(lessons[:6]) == [(1, 0.5, 2), (3, 2.5, 2), (5, 4.5, 2)]
    # A seventh is half a group, and a first that is forgotten leaves the other groups as they are.
    assert points(lessons[:7]) == [(1, 0.5, 2), (3, 2.5, 2), (5, 4.5, 2), (6, 6.0, 1)]
    assert points(lessons[1:7], begin=1) == [(1, 1.0, 1), (3, 2.5, 2), (5, 4.5, 2), (6, 6.0, 1)]
    # A ninth of groups of four is too little to show.
    assert points(lessons) == [(3, 1.5, 4), (7, 5.5, 4)]
    assert curve(lessons[:2], least=1) == [Point(0, 0.0, 0.5, 9.0, 0, 1), Point(1, 1.0, 0.5, 9.0, 1, 1)]
