"""One request's way through the reward service, without HTTP."""

from __future__ import annotations

from datetime import timedelta
from hashlib import blake2b

import numpy as np
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
from services.reward.learnt import columns_of
from services.reward.scheduler import Lane, Scheduler
from services.reward.stack import Scored, Stack
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
        """Score completions. Raises TooLong, Busy, DeadlineExceeded, Unavailable.

        Of an over-long completion the beginning is scored: one miner that sends a book must not keep the others
        of its batch from being scored. An over-long prompt is the caller's fault.
        """
        if len(request.completions) > self._max_completions:
            raise TooLong(
                f"{len(request.completions)} completions in one request; at most {self._max_completions} are taken"
            )
        for message in request.messages:
            if _bytes(message.content) > self._max_text_bytes:
                raise TooLong(f"a message has over {self._max_text_bytes} bytes")
        completions = tuple(_beginning(text, self._max_text_bytes) for text in request.completions)
        size = sum(_bytes(message.content) for message in request.messages) + sum(map(_bytes, completions))
        lane = Lane.INTERACTIVE if request.kind in INTERACTIVE else Lane.TRAINING
        deadline = None if request.deadline_s is None else timedelta(seconds=request.deadline_s)
        with self._scheduler.admit(lane, size):
            batch = Batch(
                turns=tuple(Turn(message.role, message.content) for message in request.messages),
                completions=completions,
                kind=request.kind,
                runner=self._scheduler.lane(lane, deadline),
                difference=request.difference,
            )
            try:
                scored = await self._built.stack.score(batch, self.statistics)
            except ModelError as error:
                raise Unavailable(error.sentence, remedy=error.remedy) from error
            # What users are told is not remembered.
            extra = _normalised(scored)
            if lane is Lane.TRAINING:
                extra |= _signed(scored) | await self._beside(batch)
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
        """Judge texts; without a configured filter all are safe, and ``active`` says so. Raises as ``reward``.

        What is longer than can be read is unsafe: nobody has seen all of it.
        """
        n = len(request.texts)
        safety = self._built.safety
        if safety is None:
            return FilterResponse(safe=(True,) * n, scores=(0.0,) * n, active=False)
        short = [i for i, text in enumerate(request.texts) if _bytes(text) <= self._max_text_bytes]
        texts = [request.texts[i] for i in short]
        with self._scheduler.admit(Lane.INTERACTIVE, sum(map(_bytes, texts))):
            try:
                judged = await safety.judge(texts, self._scheduler.lane(Lane.INTERACTIVE))
            except ModelError as error:
                raise Unavailable(error.sentence, remedy=error.remedy) from error
        safe, scores = [False] * n, [1.0] * n
        for i, is_safe, score in zip(short, *judged, strict=True):
            safe[i], scores[i] = is_safe, score
        return FilterResponse(safe=tuple(safe), scores=tuple(scores), active=True)

    def describe(self) -> StackResponse:
        """The stack in force."""
        stack = self._built.stack
        return StackResponse(
            version=stack.version,
            functions={name: weighted.weight for name, weighted in stack.functions.items()},
            masks=(*stack.masks, *stack.learnt),
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
        # Whatever a model, a template or an endpoint that is only tried out may raise. Its class alone where it is not
        # ours: what a tokenizer says may quote the text.
        except Exception as error:
            metrics.SHADOW.labels("failed").inc()
            ours = isinstance(error, CoremeshError | ModelError)
            log.warning("the shadow stack failed", reason=str(error) if ours else type(error).__name__)
            return {}
        metrics.SHADOW.labels("scored").inc()
        columns = {"reward": scored.rewards, **scored.raw}
        columns |= {f"mask:{name}": values for name, values in scored.masks.items()}
        said = {name: _plain(values) for name, values in columns.items()} | _signed(scored)
        prefix = shadow_prefix(self._shadow.version)
        return {prefix + name: values for name, values in said.items()}


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _beginning(text: str, most: int) -> str:
    if len(text) <= most // 4 or _bytes(text) <= most:
        return text
    return text.encode("utf-8", "surrogatepass")[:most].decode("utf-8", "ignore")


def sampled(turns: tuple[Turn, ...], share: float) -> bool:
    """Whether a prompt belongs to a share of all prompts; the same on every replica."""
    digest = blake2b(digest_size=8)
    for turn in turns:
        digest.update(f"{turn.role}\0{turn.content}\0".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "big") < share * 2**64


def _normalised(scored: Scored) -> dict[str, tuple[float, ...]]:
    """For the event, which has the raw values already: those that differ from them."""
    return {
        f"normalised:{name}": _plain(values)
        for name, values in scored.normalised.items()
        if not np.array_equal(values, scored.raw[name])
    }


def _signed(scored: Scored) -> dict[str, tuple[float, ...]]:
    columns: dict[str, tuple[float, ...]] = {}
    for name, signs in scored.signs.items():
        columns |= columns_of(name, signs)
    return columns


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())
