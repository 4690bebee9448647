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
BLOCK = 16384
"""Values worked on at once, so that they stay in the processor's cache."""
SHIFT = float(2**52 + 2**51 + 1023)
"""k + SHIFT has k + 1023, the exponent of 2**k, in its low bits."""


def exp(x: Floats) -> Floats:
    """e**x for x <= 0, within one unit in the last place; 0 below SMALLEST. ``x`` is contiguous."""
    flat, result = x.reshape(-1), np.empty(x.size)
    rooms = np.empty((3, min(BLOCK, x.size)))
    for at in range(0, len(flat), BLOCK):
        part = flat[at : at + BLOCK]
        _exp(part, result[at : at + BLOCK], *rooms[:, : len(part)])
    return result.reshape(x.shape)


def _exp(x: Floats, p: Floats, within: Floats, k: Floats, room: Floats) -> None:
    np.maximum(x, SMALLEST, out=within)
    np.multiply(within, LOG2_E, out=k)
    np.rint(k, out=k)
    within -= np.multiply(k, LN2_HIGH, out=room)
    within -= np.multiply(k, LN2_LOW, out=room)
    np.multiply(within, TAYLOR[0], out=p)
    p += TAYLOR[1]
    for coefficient in TAYLOR[2:]:
        p *= within
        p += coefficient
    # 2**k, by its bits.
    k += SHIFT
    bits = k.view(np.int64)
    bits <<= 52
    p *= k
    if x.min() < SMALLEST:
        np.copyto(p, 0.0, where=x < SMALLEST)


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


def sums(values: Floats) -> Floats:
    """The sum of each column of ``values`` [l, n], added up from the first row on (never pairwise)."""
    total = values[0].copy()
    for row in values[1:]:
        total += row
    return total


def left_to_right(values: Floats) -> float:
    """The sum, added up from left to right."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0
