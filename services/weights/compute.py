"""Scores to the vector that the chain stores.

The chain (pallet of June 2026) takes a vector when it has at least min(n, minimum) uids, no value's share of the
sum is over the maximum weight, and stores it as u16 with its largest value at 65535.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from services.weights.exact import Floats, left_to_right

U16 = 65535


@dataclass(frozen=True, slots=True)
class Limits:
    """What the subnet takes. ``max_weight`` is a share of the sum in 65535ths."""

    size: int
    min_weights: int = 1
    max_weight: int = U16
    fill_last: frozenset[int] = frozenset()
    """Uids that are given a weight for the sake of number alone only when no other is left."""

    @property
    def fewest(self) -> int:
        """How many weights a vector needs: the minimum, and as many as the maximum weight asks for."""
        by_share = U16 // self.max_weight + 1 if self.max_weight < U16 else 1
        return min(self.size, max(self.min_weights, by_share, 1))


@dataclass(frozen=True, slots=True)
class Vector:
    """Weights fit for the chain, in uid order, none of them 0."""

    uids: tuple[int, ...]
    weights: tuple[float, ...]
    """Shares of 1, before they were rounded."""
    values: tuple[int, ...]
    """u16, the largest 65535."""


EMPTY = Vector((), (), ())


def compute_weights(scores: Floats, limits: Limits, *, no_history: Literal["uniform", "skip"]) -> Vector:
    """The vector of ``scores`` [n]: NaN and infinite ones count as 0.

    When all are 0 the vector is equal weights for every uid, or EMPTY (``skip``). Never raises.
    """
    merits = np.zeros(limits.size)
    known = min(limits.size, len(scores))
    merits[:known] = np.where(np.isfinite(scores[:known]), np.maximum(scores[:known], 0.0), 0.0)
    total = left_to_right(merits)
    if limits.size == 0 or not np.isfinite(total):
        return EMPTY
    if total <= 0:
        if no_history == "skip":
            return EMPTY
        merits[:] = 1.0
        total = float(limits.size)
    shares = _clip(_fill(merits / total, limits), limits.max_weight)
    values = np.rint(shares / shares.max() * U16).astype(np.int64)
    uids = np.flatnonzero(values)
    return Vector(
        tuple(uids.tolist()),
        tuple((shares[uids] / left_to_right(shares[uids])).tolist()),
        tuple(values[uids].tolist()),
    )


def _fill(shares: Floats, limits: Limits) -> Floats:
    """Give enough uids the smallest weight that is not rounded to 0."""
    least = shares.max() / U16
    held = shares >= least / 2 * 1.000001
    missing = limits.fewest - int(held.sum())
    if missing <= 0:
        return shares
    free = np.flatnonzero(~held).tolist()
    # Whoever has the larger score first, then by uid.
    chosen = sorted(free, key=lambda uid: (uid in limits.fill_last, -shares[uid], uid))[:missing]
    filled = shares.copy()
    filled[chosen] = least
    return filled


def _clip(shares: Floats, max_weight: int) -> Floats:
    """Lower the largest until none is over its part of the sum, after rounding too.

    With k at the cut c and the rest below: c = limit * (k * c + rest). A limit that the number of weights cannot
    meet gives equal weights.
    """
    if max_weight >= U16:
        return shares
    for slack in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        clipped = _cut(shares, max_weight / U16 * (1.0 - slack))
        values = np.rint(clipped / clipped.max() * U16)
        if values.max() * U16 <= max_weight * values.sum():
            return clipped
    return np.where(shares > 0, 1.0, 0.0)


def _cut(shares: Floats, limit: float) -> Floats:
    falling = np.sort(shares[shares > 0])[::-1]
    if len(falling) * limit <= 1:
        return np.where(shares > 0, 1.0, 0.0)
    rest = left_to_right(falling)
    for k, largest in enumerate(falling.tolist()):
        cut = limit * rest / (1.0 - k * limit)
        if largest <= cut:
            return np.minimum(shares, cut) if k else shares
        rest -= largest
    return np.where(shares > 0, 1.0, 0.0)
