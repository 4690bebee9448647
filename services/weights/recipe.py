"""From the fold's state to a vector, and the text that lets anyone do it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from coremesh.metagraph import Hyperparameters
from coremesh.types import hotkey_digest
from services.weights.compute import Limits, Vector, compute_weights
from services.weights.exact import Floats
from services.weights.rules import Rule, rule_of_format
from services.weights.scores import ScoreState

NoHistory = Literal["uniform", "skip"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a vector depends on besides the history. Its ``text`` is recorded with every submission."""

    rule: Rule
    min_weights: int
    max_weight: int
    no_history: NoHistory

    @property
    def text(self) -> str:
        """As recorded."""
        return (
            f"{self.rule.format}|min_weights={self.min_weights}|max_weight={self.max_weight}"
            f"|no_history={self.no_history}"
        )

    def scores(self, state: ScoreState) -> Floats:
        """Scores per uid."""
        return self.rule.scores(state.moving, state.successes, state.failures)

    def limits(self, state: ScoreState, hotkey: str) -> Limits:
        """The chain's limits for the network in ``state``; validators and ``hotkey`` (our own) fill it last."""
        own = state.digests == np.uint64(hotkey_digest(hotkey) if hotkey else 0)
        return Limits(
            size=state.announced or state.size,
            min_weights=self.min_weights,
            max_weight=self.max_weight,
            fill_last=frozenset(np.flatnonzero(state.excluded | own).tolist()),
        )

    def vector(self, state: ScoreState, hotkey: str) -> Vector:
        """The vector of a state."""
        return compute_weights(self.scores(state), self.limits(state, hotkey), no_history=self.no_history)


def recipe(rule: Rule, hyperparameters: Hyperparameters, no_history: NoHistory) -> Recipe:
    """The recipe under the subnet's hyperparameters."""
    return Recipe(rule, hyperparameters.min_weights, max(1, hyperparameters.max_weight), no_history)


def recipe_of_text(text: str) -> Recipe:
    """The recipe in a record. Raises ValueError when this version does not know it."""
    rule, *pairs = text.split("|")
    given = dict(pair.split("=", 1) for pair in pairs)
    try:
        found = Recipe(
            rule_of_format(rule),
            int(given["min_weights"]),
            int(given["max_weight"]),
            cast(NoHistory, given["no_history"]),
        )
    except KeyError as error:
        raise ValueError(f"{text!r} lacks {error.args[0]}") from None
    if found.text != text:
        raise ValueError(f"{text!r} is not how this version computes weights")
    return found
