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


def test_a_curve_groups_from_the_newest() -> None:
    lessons = [Lesson(n, float(n), 0.5, 9.0, n) for n in range(7)]
    assert curve(lessons, points=4) == [
        Point(0, 0.0, 0.5, 9.0, 0, 1),
        Point(2, 1.5, 0.5, 9.0, 2, 2),
        Point(4, 3.5, 0.5, 9.0, 4, 2),
        Point(6, 5.5, 0.5, 9.0, 6, 2),
    ]
    assert curve([]) == []
    assert curve(lessons[:1], points=4) == [Point(0, 0.0, 0.5, 9.0, 0, 1)]
