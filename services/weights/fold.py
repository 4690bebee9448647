"""The score fold as coremesh runs it: led by one instance, checkpointed with its place in the history."""

from __future__ import annotations

from coremesh.history import Entry
from coremesh.history.page import Page
from services.weights import kernel, scores
from services.weights.rules import Rule
from services.weights.scores import ScoreState

NAME = "scores"
ROLE = "weights"


class ScoreFold:
    """coremesh.folding.Fold of ScoreState. A checkpoint of another rule or parameter is folded anew."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.format = f"{scores.LAYOUT}:{rule.format}"

    def initial(self) -> ScoreState:
        """See Fold."""
        return ScoreState()

    def load(self, state: bytes) -> ScoreState:
        """See Fold."""
        return scores.load(state)

    def dump(self, state: ScoreState) -> bytes:
        """See Fold."""
        return scores.dump(state)

    async def apply(self, state: ScoreState, entries: list[Entry]) -> ScoreState:
        """See Fold."""
        return scores.fold(state, (entry.event for entry in entries), self.rule)

    def apply_page(self, state: ScoreState, page: Page) -> ScoreState:
        """``apply`` for a page of packed events, where ``has_pages``."""
        return kernel.fold_page(state, page, self.rule)

    @property
    def has_pages(self) -> bool:
        """Whether ``apply_page`` works here."""
        return kernel.has_kernel(self.rule)
