"""The newest checkpoint of the score fold, and what would be set now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from coremesh.history import Checkpoint
from coremesh.metagraph import Metagraph
from coremesh.settings import WeightsSettings
from coremesh.types import ORIGIN, StreamId
from services.weights import scores
from services.weights.compute import Limits, Vector, compute_weights
from services.weights.exact import Floats
from services.weights.gate import Evidence, Reason, Thresholds, hold
from services.weights.recipe import Recipe, recipe
from services.weights.rules import Rule, rule_named
from services.weights.scores import ScoreState


def rule_of(settings: WeightsSettings) -> Rule:
    """The rule that the settings name."""
    return rule_named(settings.rule, alpha=settings.alpha, temperature=settings.temperature)


def thresholds_of(settings: WeightsSettings) -> Thresholds:
    """The gate that the settings describe."""
    return Thresholds(
        min_events=settings.min_events,
        min_miners=settings.min_miners,
        max_move=settings.max_move,
        max_metagraph_age_blocks=settings.max_metagraph_age_blocks,
        max_event_age=timedelta(seconds=settings.max_event_age_s) if settings.max_event_age_s else None,
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Scores at one place in the history. Never changed."""

    state: ScoreState
    last_id: StreamId
    version: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """A vector, what it rests on, and why it should be held."""

    vector: Vector
    recipe: Recipe
    limits: Limits
    page: Page
    reasons: tuple[Reason, ...]


class Book:
    """The newest page. Leader and standby turn it by the checkpoints they see."""

    def __init__(self, settings: WeightsSettings) -> None:
        self.rule = rule_of(settings)
        self._settings = settings
        self._thresholds = thresholds_of(settings)
        self.page = Page(ScoreState(), ORIGIN, 0)

    def turn(self, checkpoint: Checkpoint) -> None:
        """Show a checkpoint. Its own copy: the fold goes on changing the state that it was made from."""
        self.page = Page(scores.load(checkpoint.state), checkpoint.last_id, checkpoint.version)

    def scores(self, page: Page | None = None) -> Floats:
        """Scores per uid of a page."""
        state = (page or self.page).state
        return self.rule.scores(state.moving, state.successes, state.failures)

    def propose(
        self,
        metagraph: Metagraph,
        block: int,
        *,
        since_events: int = 0,
        previous: Mapping[int, int] | None = None,
        given: Floats | None = None,
        min_weights: int | None = None,
        max_weight: int | None = None,
    ) -> Proposal:
        """What would be set at ``block``. ``since_events``: how many events were scored up to the last submission;
        ``given``: scores in place of our own; ``min_weights``, ``max_weight``: in place of the subnet's.

        Who is in the network is what the page says, so that the vector is a function of page and recipe.
        """
        page = self.page
        how = recipe(self.rule, metagraph.hyperparameters, self._settings.no_history)
        how = replace(
            how, min_weights=min_weights or how.min_weights, max_weight=max_weight or how.max_weight
        )
        limits = how.limits(page.state, metagraph.hotkey)
        if page.state.announced == 0:
            limits = replace(limits, size=metagraph.size)
        found = how.scores(page.state) if given is None else given
        vector = compute_weights(found, limits, no_history=how.no_history)
        evidence = Evidence(
            vector=vector,
            scores_finite=bool(np.all(np.isfinite(found))),
            no_history=not np.any(found > 0),
            events=page.state.events - since_events,
            miners=int(np.count_nonzero(page.state.seen > since_events)),
            metagraph_age_blocks=max(0, block - metagraph.block),
            event_age=_age(page.state.scored_ms),
            previous=previous,
        )
        return Proposal(vector, how, limits, page, tuple(hold(evidence, self._thresholds)))


def _age(scored_ms: int) -> timedelta | None:
    return timedelta(milliseconds=time.time_ns() // 1_000_000 - scored_ms) if scored_ms else None
