"""The expected best of several uncertain answers."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch

_GRID = 96
_REACH = 5.0


def expected_best(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """E[max of the first j] for j = 1 .. n independent Gaussians with ``mean`` and ``std`` [n]: float64 [n].

    E[max] = top - integral of the product of the distribution functions, by trapezoids on a shared grid; one pass
    gives every prefix. Non-decreasing.
    """
    mean = np.asarray(mean, dtype=np.float64)
    std = np.maximum(np.asarray(std, dtype=np.float64), 1e-6)
    if mean.size == 0:
        return np.zeros(0)
    # Below the surest lower bound of the first the integrand of every prefix vanishes.
    low = float(mean[0] - _REACH * std[0])
    high = float(np.max(mean + _REACH * std))
    grid = np.linspace(low, high, _GRID)
    z = (grid[None, :] - mean[:, None]) / (std[:, None] * sqrt(2))
    cdf = 0.5 * (1.0 + torch.special.erf(torch.from_numpy(z)).numpy())
    product = np.cumprod(cdf, axis=0)
    step = grid[1] - grid[0] if high > low else 0.0
    area = (product.sum(axis=1) - 0.5 * (product[:, 0] + product[:, -1])) * step
    return np.maximum.accumulate(high - area)


def fewest(mean: np.ndarray, std: np.ndarray, keep: float, floor: float = 0.0) -> int:
    """The smallest j for which the first j keep the share ``keep`` of what asking all would gain.

    ``mean`` and ``std`` [n] are of single rewards in the order of asking; the gain is the expected best over
    ``floor``, what an average miner gives. At least 1 for n >= 1.
    """
    best = expected_best(mean, std)
    if best.size == 0:
        return 0
    wanted = floor + keep * max(float(best[-1]) - floor, 0.0)
    return int(np.argmax(best >= min(wanted, float(best[-1])))) + 1
