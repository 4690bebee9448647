"""How the rewards of one event become contributions to scores, and the moving values become scores.

Every rule keeps one moving value per uid, ``moving = keep * moving + contribution``; they differ in the
contribution and in how the moving value is read. An event's contributions depend on the event alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.weights import exact
from services.weights.exact import Floats, Indices

KAPPA = 3.0
"""Events' worth of prior in the shrunk mean."""
FAILURE_Z = -1.5
"""The z-score of a failure."""


class Rule(Protocol):
    """One way to score. Names and parameters are part of a checkpoint's format."""

    @property
    def name(self) -> str:
        """As in the settings."""
        ...

    @property
    def format(self) -> str:
        """Name and parameters: states of different formats must never meet."""
        ...

    @property
    def keep(self) -> float:
        """The share of the moving value that an event keeps."""
        ...

    def contributions(self, rewards: Floats, success: NDArray[np.bool_]) -> Floats:
        """What each of l entries of n events adds, float64 [l, n]: an event a column, each with a success;
        ``rewards`` [l, n] are read where ``success``, and may be used up."""
        ...

    def scores(self, moving: Floats, successes: Indices, failures: Indices) -> Floats:
        """Scores per uid, float64 [n], none below 0."""
        ...


@dataclass(frozen=True, slots=True)
class SoftmaxEma:
    """The original: ``score = a * score + (1 - a) * target``, target = softmax(rewards / temperature) over the
    successes and 0 for failures."""

    alpha: float = 0.99
    temperature: float = 1.0
    name: str = "softmax_ema"

    @property
    def format(self) -> str:
        """See Rule."""
        return f"{self.name}:alpha={self.alpha!r}:temperature={self.temperature!r}"

    @property
    def keep(self) -> float:
        """See Rule."""
        return self.alpha

    def contributions(self, rewards: Floats, success: NDArray[np.bool_]) -> Floats:
        """See Rule."""
        failed = ~success
        np.copyto(rewards, -np.inf, where=failed)
        if self.temperature != 1.0:
            rewards /= self.temperature
        rewards -= rewards.max(axis=0)
        # Below what exp takes for 0, and finite.
        np.copyto(rewards, exact.SMALLEST, where=failed)
        target = exact.exp(rewards)
        np.copyto(target, 0.0, where=failed)
        target /= exact.sums(target)
        target *= 1.0 - self.alpha
        return target

    def scores(self, moving: Floats, successes: Indices, failures: Indices) -> Floats:
        """See Rule."""
        return moving


@dataclass(frozen=True, slots=True)
class SoftmaxEmaCorrected(SoftmaxEma):
    """The original divided by ``1 - a**n`` for the n events of a uid, so that newcomers are not held back."""

    name: str = "softmax_ema_corrected"

    def scores(self, moving: Floats, successes: Indices, failures: Indices) -> Floats:
        """See Rule."""
        seen = successes + failures
        weight = 1.0 - exact.power(self.alpha, seen)
        return np.where(seen > 0, moving / np.where(seen > 0, weight, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class ShrunkZ:
    """The mean z-score over a uid's events, shrunk towards the average by KAPPA events, counted from the level of
    a failure: ``max(0, sum(z) / (n + KAPPA) - FAILURE_Z)``; 0 for who never succeeded."""

    name: str = "shrunk_z"

    @property
    def format(self) -> str:
        """See Rule."""
        return f"{self.name}:kappa={KAPPA!r}"

    @property
    def keep(self) -> float:
        """See Rule."""
        return 1.0

    def contributions(self, rewards: Floats, success: NDArray[np.bool_]) -> Floats:
        """See Rule."""
        n = success.sum(axis=0)
        mean = exact.sums(np.where(success, rewards, 0.0)) / n
        away = np.where(success, rewards - mean, 0.0)
        deviation = np.sqrt(exact.sums(away * away) / n)
        z = np.where(deviation > 0, away / np.where(deviation > 0, deviation, 1.0), 0.0)
        return np.where(success, z, FAILURE_Z)

    def scores(self, moving: Floats, successes: Indices, failures: Indices) -> Floats:
        """See Rule."""
        mean = moving / (successes + failures + KAPPA)
        return np.where(successes > 0, np.maximum(0.0, mean - FAILURE_Z), 0.0)


def rule_named(name: str, *, alpha: float, temperature: float) -> Rule:
    """The rule of a setting. Raises ValueError for a name that there is not."""
    if name == "softmax_ema":
        return SoftmaxEma(alpha, temperature)
    if name == "softmax_ema_corrected":
        return SoftmaxEmaCorrected(alpha, temperature)
    if name == "shrunk_z":
        return ShrunkZ()
    raise ValueError(f"there is no score rule {name!r}")


def rule_of_format(text: str) -> Rule:
    """The rule whose ``format`` is ``text``. Raises ValueError when there is none such."""
    name, *pairs = text.split(":")
    given = dict(pair.split("=", 1) for pair in pairs)
    rule = rule_named(
        name, alpha=float(given.get("alpha", "0.99")), temperature=float(given.get("temperature", "1"))
    )
    if rule.format != text:
        raise ValueError(f"{text!r} is not how this version scores")
    return rule


RULES = ("softmax_ema", "softmax_ema_corrected", "shrunk_z")
