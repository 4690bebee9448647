"""One request's way through the reward service, without HTTP."""

from __future__ import annotations

from datetime import timedelta
from hashlib import blake2b

import structlog

from coremesh.contracts import (
    FilterRequest,
    FilterResponse,
    RewardRequest,
    RewardResponse,
    StackResponse,
)
from coremesh.errors import CoremeshError, TooLong, Unavailable
from services.reward import metrics
from services.reward.batch import Batch, Floats, Turn
from services.reward.build import Built
from services.reward.engine import ModelError
from services.reward.fold import shadow_prefix
from services.reward.scheduler import Lane, Scheduler
from services.reward.stack import Stack
from services.reward.statistics import Statistics

log = structlog.get_logger(__name__)

INTERACTIVE = ("inference", "forward")


class RewardService:
    """Scores and filters. Holds no state of its own but the newest statistics, which folds bring.

    A ``shadow`` stack scores a sampled share of training requests beside the one that counts; what it says is
    recorded, and its failures are nobody's but its own.
    """

    def __init__(
        self,
        built: Built,
        scheduler: Scheduler,
        *,
        max_completions: int,
        max_text_bytes: int,
        shadow: Stack | None = None,
        shadow_share: float = 0.0,
    ) -> None:
        self._built = built
        self._shadow = shadow
        self._shadow_share = shadow_share
        self._scheduler = scheduler
        self._max_completions = max_completions
        self._max_text_bytes = max_text_bytes
        self.statistics = Statistics()
        self.shadow_statistics = Statistics()

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
            extra = await self._beside(batch) if lane is Lane.TRAINING else {}
        metrics.COMPLETIONS.labels(request.kind).inc(len(batch))
        return RewardResponse(
            rewards=_plain(scored.rewards),
            raw={name: _plain(values) for name, values in scored.raw.items()},
            normalised={name: _plain(values) for name, values in scored.normalised.items()},
            masks={name: _plain(values) for name, values in scored.masks.items()},
            stack_version=self._built.stack.version,
            stats_version=scored.stats_version,
            extra=extra,
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

    async def _beside(self, batch: Batch) -> dict[str, tuple[float, ...]]:
        """What the shadow stack says, for the event; empty when it is not this one's turn, or fails."""
        if self._shadow is None or not sampled(batch.turns, self._shadow_share):
            return {}
        try:
            scored = await self._shadow.score(batch, self.shadow_statistics)
        except (CoremeshError, ModelError) as error:
            metrics.SHADOW.labels("failed").inc()
            log.warning("the shadow stack failed", reason=str(error))
            return {}
        metrics.SHADOW.labels("scored").inc()
        columns = {"reward": scored.rewards, **scored.raw}
        columns |= {f"mask:{name}": values for name, values in scored.masks.items()}
        prefix = shadow_prefix(self._shadow.version)
        return {prefix + name: _plain(values) for name, values in columns.items()}

    def _measure(self, texts: list[str] | tuple[str, ...]) -> int:
        total = 0
        for text in texts:
            size = len(text.encode("utf-8", "surrogatepass"))
            if size > self._max_text_bytes:
                raise TooLong(f"a text has {size} bytes; at most {self._max_text_bytes} are taken")
            total += size
        return total


def sampled(turns: tuple[Turn, ...], share: float) -> bool:
    """Whether a prompt belongs to a share of all prompts; the same on every replica."""
    digest = blake2b(digest_size=8)
    for turn in turns:
        digest.update(f"{turn.role}\0{turn.content}\0".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "big") < share * 2**64


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())
