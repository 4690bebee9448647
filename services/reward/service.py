"""One request's way through the reward service, without HTTP."""

from __future__ import annotations

from datetime import timedelta

from coremesh.contracts import (
    FilterRequest,
    FilterResponse,
    RewardRequest,
    RewardResponse,
    StackResponse,
)
from coremesh.errors import TooLong, Unavailable
from services.reward import metrics
from services.reward.batch import Batch, Floats, Turn
from services.reward.build import Built
from services.reward.engine import ModelError
from services.reward.scheduler import Lane, Scheduler
from services.reward.statistics import Statistics

INTERACTIVE = ("inference", "forward")


class RewardService:
    """Scores and filters. Holds no state of its own but the newest statistics, which a fold brings."""

    def __init__(
        self, built: Built, scheduler: Scheduler, *, max_completions: int, max_text_bytes: int
    ) -> None:
        self._built = built
        self._scheduler = scheduler
        self._max_completions = max_completions
        self._max_text_bytes = max_text_bytes
        self.statistics = Statistics()

    async def reward(self, request: RewardRequest) -> RewardResponse:
        """Score completions. Raises TooLong, Busy, DeadlineExceeded, Unavailable."""
        if len(request.completions) > self._max_completions:
            raise TooLong(
                f"{len(request.completions)} completions in one request; at most {self._max_completions} are taken"
            )
        texts = [*(message.content for message in request.messages), *request.completions]
        size = self._measure(texts)
        lane = Lane.INTERACTIVE if request.kind in INTERACTIVE else Lane.TRAINING
        deadline = None if request.deadline_s is None else timedelta(seconds=request.deadline_s)
        with self._scheduler.admit(lane, size):
            batch = Batch(
                turns=tuple(Turn(message.role, message.content) for message in request.messages),
                completions=request.completions,
                kind=request.kind,
                runner=self._scheduler.lane(lane, deadline),
                difference=request.difference,
            )
            try:
                scored = await self._built.stack.score(batch, self.statistics)
            except ModelError as error:
                raise Unavailable(error.sentence, remedy=error.remedy) from error
        metrics.COMPLETIONS.labels(request.kind).inc(len(batch))
        return RewardResponse(
            rewards=_plain(scored.rewards),
            raw={name: _plain(values) for name, values in scored.raw.items()},
            normalised={name: _plain(values) for name, values in scored.normalised.items()},
            masks={name: _plain(values) for name, values in scored.masks.items()},
            stack_version=self._built.stack.version,
            stats_version=scored.stats_version,
        )

    async def filter(self, request: FilterRequest) -> FilterResponse:
        """Judge texts; without a configured filter all are safe, and ``active`` says so. Raises as ``reward``."""
        size = self._measure(request.texts)
        safety = self._built.safety
        if safety is None:
            n = len(request.texts)
            return FilterResponse(safe=(True,) * n, scores=(0.0,) * n, active=False)
        with self._scheduler.admit(Lane.INTERACTIVE, size):
            try:
                safe, scores = await safety.judge(request.texts, self._scheduler.lane(Lane.INTERACTIVE))
            except ModelError as error:
                raise Unavailable(error.sentence, remedy=error.remedy) from error
        return FilterResponse(safe=tuple(safe), scores=tuple(scores), active=True)

    def describe(self) -> StackResponse:
        """The stack in force."""
        stack = self._built.stack
        return StackResponse(
            version=stack.version,
            functions={name: weighted.weight for name, weighted in stack.functions.items()},
            masks=tuple(stack.masks),
            models=stack.models,
            stats_version=self.statistics.version,
            safety=self._built.safety is not None,
        )

    def _measure(self, texts: list[str] | tuple[str, ...]) -> int:
        total = 0
        for text in texts:
            size = len(text.encode("utf-8", "surrogatepass"))
            if size > self._max_text_bytes:
                raise TooLong(f"a text has {size} bytes; at most {self._max_text_bytes} are taken")
            total += size
        return total


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())
