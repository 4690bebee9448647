"""What is usual: running mean and deviation of raw values, and where a value stands among them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.reward.config import Normalise
from services.reward.learnt import CommonPhrases, Recent

Floats = NDArray[np.float64]

LEAST_DEVIATION = 1e-6
"""Values that never varied say nothing about a value that does; dividing by zero would say NaN."""

_erf = np.vectorize(math.erf, otypes=[np.float64])


class Running(msgspec.Struct, array_like=True):
    """Mean and variance of the values seen, by Welford's recurrence with a capped count.

    At the cap each new value weighs 1/cap, so that old ones fade. Values are folded one at a time in order:
    the result does not depend on how the history was cut into batches.
    """

    count: int
    mean: float
    variance: float

    def add(self, values: Floats, cap: int) -> None:
        """Fold finite values [n], in order."""
        for value in values.tolist():
            self.count = min(self.count + 1, cap)
            delta = value - self.mean
            self.mean += delta / self.count
            self.variance += (delta * (value - self.mean) - self.variance) / self.count


class Statistics(msgspec.Struct, array_like=True):
    """What the stack has learnt: ``version`` counts the events folded, so a replay gives any version again."""

    version: int = 0
    running: dict[str, Running] = {}
    phrases: CommonPhrases = msgspec.field(default_factory=CommonPhrases)
    recent: Recent = msgspec.field(default_factory=Recent)

    def of(self, key: str, rule: Normalise) -> Running:
        """The statistics of one key; before the first value, those given in the configuration."""
        return self.running.get(key) or Running(rule.prior, rule.mean, rule.deviation**2)


def normalise(raw: Floats, rule: Normalise, statistics: Statistics, key: str) -> Floats:
    """Values [n] as the rule says; finite for finite ``raw``."""
    if rule.by == "none":
        return raw
    if rule.by == "unit":
        return np.clip(raw, 0.0, 1.0)
    if rule.by == "sigmoid":
        # Half a tanh: the same curve, and it does not overflow.
        return 0.5 + 0.5 * np.tanh((raw - rule.mean) / (2 * rule.deviation))
    seen = statistics.of(key, rule)
    deviation = max(math.sqrt(max(seen.variance, 0.0)), LEAST_DEVIATION)
    result: Any = 0.5 * (1.0 + _erf((raw - seen.mean) / (deviation * math.sqrt(2.0))))
    return result
