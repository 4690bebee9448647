"""Arithmetic that gives the same bits on every machine.

``exp`` and ``pow`` of the C library and of NumPy's SIMD loops differ in the last bit between processors, and a
replay must give the same bits wherever it is run. What is here uses only operations that IEEE 754 rounds exactly
(add, multiply, divide, rint, scaling by a power of two), in a fixed order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.6931471803691238
"""ln 2 with its low bits cut off, so that k * LN2_HIGH is exact for |k| < 2**20 (Cody and Waite)."""
LN2_LOW = 1.9082149292705877e-10
SMALLEST = -708.0
"""exp below this counts as 0: nothing that small is left of a share, and no scaling goes below 2**-1022."""
TAYLOR: tuple[float, ...] = tuple(
    1.0 / f for f in (6227020800, 479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1)
)
"""1/13! down to 1/0!: on |r| <= ln(2)/2 the rest of the series is below 2**-57."""
BLOCK = 4096
"""Values worked on at once, so that they stay in the processor's cache."""


def exp(x: Floats) -> Floats:
    """e**x for x <= 0, within one unit in the last place; 0 below SMALLEST."""
    result = np.empty_like(x)
    for at in range(0, len(x), BLOCK):
        _exp(x[at : at + BLOCK], result[at : at + BLOCK])
    return result


def _exp(x: Floats, p: Floats) -> None:
    within = np.maximum(x, SMALLEST)
    k = np.rint(within * LOG2_E)
    within -= k * LN2_HIGH
    within -= k * LN2_LOW
    p[:] = TAYLOR[0]
    for coefficient in TAYLOR[1:]:
        p *= within
        p += coefficient
    # 2**k, by its bits.
    p *= ((k.astype(np.int64) + 1023) << 52).view(np.float64)
    p *= x >= SMALLEST


def power(base: float, n: Indices) -> Floats:
    """base**n for n >= 0, by squaring."""
    result = np.ones(n.shape)
    rest = n.copy()
    square = base
    while np.any(rest):
        result = np.where(rest & 1, result * square, result)
        rest >>= 1
        square *= square
    return result


def segment_sums(values: Floats, segments: Indices, count: int) -> Floats:
    """The sum of each segment, added up from left to right (never pairwise)."""
    sums: Floats = np.bincount(segments, weights=values, minlength=count).astype(np.float64, copy=False)
    return sums


def left_to_right(values: Floats) -> float:
    """The sum, added up from left to right."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0
