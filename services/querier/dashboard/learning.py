"""What gating has learnt, seen in the events: the reward of its first choice against that of a random miner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from coremesh.events import Flag, ForwardEvent
from coremesh.wire.status import Status

POINTS = 40
"""About the most points of a curve."""
LEAST = 4
"""Events behind a point, at least: rewards differ from prompt to prompt."""


class Lesson(NamedTuple):
    """One event: rewards with 0 for a failure."""

    time_ms: int
    first: float
    """Of the miner that gating ranked first among the asked."""
    mean: float
    """Of a miner drawn at random, estimated from the asked."""
    best: float
    """Of the best among the asked: nobody knew before."""
    head_version: int


class Point(NamedTuple):
    """Means over ``events`` lessons; the time of the last."""

    time_ms: int
    first: float
    mean: float
    best: float
    head_version: int
    events: int


def lesson(event: ForwardEvent) -> Lesson | None:
    """What an event says; None where gating was not asked, nothing was rewarded, or nothing is known of chance.

    The mean is Hajek's estimate: each of the asked counts 1/propensity, so that a choice which favours good miners does
    not look like good luck. Without propensities only a uniform sample tells.
    """
    # Without numpy: of ten numbers each of its dozen steps would take as long as all of this.
    given, shares = event.rewards.tolist(), event.propensity.tolist()
    gating: list[float] = event.gating.tolist()
    n = len(given)
    if n < 2 or len(gating) != n or not any(map(math.isfinite, given)):
        return None
    ok = (status == Status.OK for status in event.status.tolist())
    rewards = [r if good and math.isfinite(r) else 0.0 for r, good in zip(given, ok, strict=True)]
    if len(shares) == n and all(0.0 < share < math.inf for share in shares):
        weights = [1.0 / share for share in shares]
    elif event.flags & Flag.RANDOM_SAMPLE:
        weights = [1.0] * n
    else:
        return None
    first = max(range(n), key=lambda i: -math.inf if math.isnan(gating[i]) else gating[i])
    return Lesson(
        event.time_ms,
        rewards[first],
        sum(w * r for w, r in zip(weights, rewards, strict=True)) / sum(weights),
        max(rewards),
        event.head_version,
    )


def curve(
    lessons: Sequence[Lesson], begin: int = 0, *, points: int = POINTS, least: int = LEAST
) -> list[Point]:
    """Lessons, oldest first, as at most ``points`` + 1 means over groups of a power of two.

    ``begin`` is how many lessons came before the first: groups are counted from there, so that points stay where
    they are while the newest group grows; that one is left out until half of it has come.
    """
    if not lessons:
        return []
    size = 1 << (max(least, math.ceil(len(lessons) / points)) - 1).bit_length()
    edges = sorted({0, len(lessons), *range(-begin % size, len(lessons), size)})
    groups = list(pairwise(edges))
    if len(groups) > 1 and 2 * (groups[-1][1] - groups[-1][0]) < size:
        groups.pop()
    found: list[Point] = []
    for start, stop in groups:
        group = np.array(lessons[start:stop], np.float64)
        first, mean, best = (float(value) for value in group[:, 1:4].mean(axis=0))
        last = lessons[stop - 1]
        found.append(Point(last.time_ms, first, mean, best, last.head_version, stop - start))
    return found
