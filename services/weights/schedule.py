"""When weights are due."""

from __future__ import annotations

from enum import Enum

from coremesh.metagraph import Hyperparameters


class Due(Enum):
    """What to do about weights now."""

    WAIT = "wait"
    """They are set for this epoch, or the chain would refuse them for the rate limit."""
    NOW = "now"
    URGENT = "urgent"
    """The activity cutoff is near: soft reasons to hold no longer count."""


CUTOFF_PARTS = 5
"""Weights become urgent when the last fifth of the activity cutoff has begun."""


def due(block: int, epoch_start: int, last_update: int, limits: Hyperparameters, override: int = -1) -> Due:
    """Whether weights are due at ``block``.

    Once in every epoch of the subnet (from ``epoch_start``, the block at which the last one ran), or with
    ``override`` > 0 every so many blocks; never before the rate limit since ``last_update`` (0: never updated),
    whatever else holds.
    """
    if last_update == 0:
        return Due.NOW
    since = block - last_update
    if since < limits.rate_limit:
        return Due.WAIT
    if since >= limits.activity_cutoff - limits.activity_cutoff // CUTOFF_PARTS:
        return Due.URGENT
    if override > 0:
        return Due.NOW if since >= override else Due.WAIT
    return Due.NOW if last_update < epoch_start else Due.WAIT


def retry_wait(failures: int, tempo: int) -> int:
    """Blocks to wait after the n-th failure in a row: doubling, at most a tenth of an epoch."""
    return min(2 ** min(failures, 10), max(1, tempo // 10))
