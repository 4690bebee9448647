"""Why a vector should not be submitted now.

A *soft* reason is set aside when the validator would otherwise be counted inactive; a *hard* one only by an
operator. What happens instead then is repeat.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from services.weights.compute import Vector


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The operator's. See WeightsSettings."""

    min_events: int = 1
    min_miners: int = 1
    max_move: float = 2.0
    max_metagraph_age_blocks: int = 1000
    max_event_age: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gate looks at."""

    vector: Vector
    scores_finite: bool
    no_history: bool
    """Nothing was ever scored: equal weights are meant."""
    events: int
    """Scored events since the last submission."""
    miners: int
    """Distinct uids in them."""
    metagraph_age_blocks: int
    event_age: timedelta | None
    """Of the newest scored event."""
    previous: Mapping[int, int] | None
    """uid to u16 of the last vector that landed, None for the first."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, as a stable code and a sentence."""

    code: str
    text: str
    soft: bool = False


def hold(evidence: Evidence, thresholds: Thresholds) -> list[Reason]:
    """Every reason to hold, the hard ones first; none: submit."""
    reasons: list[Reason] = []
    if not evidence.vector.uids:
        reasons.append(Reason("empty", "there is nothing to set"))
    if not evidence.scores_finite:
        reasons.append(Reason("not_finite", "a score is not a finite number"))
    if not evidence.no_history and len(evidence.vector.values) > 1 and len(set(evidence.vector.values)) == 1:
        reasons.append(Reason("all_equal", "all weights are equal although events were scored"))
    if evidence.metagraph_age_blocks > thresholds.max_metagraph_age_blocks:
        reasons.append(
            Reason(
                "stale_metagraph",
                f"the metagraph is {evidence.metagraph_age_blocks} blocks old, over "
                f"{thresholds.max_metagraph_age_blocks}",
            )
        )
    if evidence.previous and (moved := distance(evidence.vector, evidence.previous)) > thresholds.max_move:
        reasons.append(Reason("moved", f"the vector moved by {moved:.3f} (L1), over {thresholds.max_move:g}"))
    if evidence.no_history:
        return reasons
    if evidence.events < thresholds.min_events:
        reasons.append(
            Reason(
                "few_events",
                f"{evidence.events} scored events since the last submission, under {thresholds.min_events}",
                soft=True,
            )
        )
    if evidence.miners < thresholds.min_miners:
        reasons.append(
            Reason(
                "few_miners",
                f"{evidence.miners} miners scored since the last submission, under {thresholds.min_miners}",
                soft=True,
            )
        )
    if (
        thresholds.max_event_age is not None
        and evidence.event_age is not None
        and evidence.event_age > thresholds.max_event_age
    ):
        seconds = evidence.event_age.total_seconds()
        reasons.append(Reason("stale_events", f"the newest scored event is {seconds:.0f} s old", soft=True))
    return reasons


def distance(vector: Vector, previous: Mapping[int, int]) -> float:
    """L1 distance of two vectors as shares of 1: 0 when equal, 2 when nothing is in common."""
    new = dict(zip(vector.uids, vector.values, strict=True))
    new_sum, old_sum = sum(new.values()) or 1, sum(previous.values()) or 1
    return sum(abs(new.get(uid, 0) / new_sum - previous.get(uid, 0) / old_sum) for uid in {*new, *previous})
