"""What completions are worth, and whether they may be shown: the reward service, or what there is without it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, cast

import structlog

from coremesh.contracts import ChatMessage, FilterRequest, RewardRequest, RewardResponse
from coremesh.errors import Busy, CoremeshError, ServiceUnavailable
from coremesh.mesh import COOL_DOWN_S, RewardPeer

log = structlog.get_logger(__name__)

NO_FILTER_S = 1.0
"""How long an answer that there is no filter holds: two calls of each request would only hear it again, and a
reward service that starts anew with a filter takes longer."""
MASK_PREFIX = "mask:"
"""Marks masks among an event's parts: a reward function and a mask may have the same name."""

JUDGED_CHARS = 32_768
"""Characters of a completion that are scored. For safety all of it is judged: all of it is shown."""
FILTERED_AT_ONCE = 1_000_000
"""Characters in one call of the filter; a request has a bound there."""

RewardKind = Literal["question", "answer", "inference", "forward"]


class FilterAway(ServiceUnavailable):
    """Texts cannot be judged for safety, and may not pass unjudged (``querier.filter_when_away``)."""

    code = "filter_away"
    retry_after_s = COOL_DOWN_S
    default_remedy = (
        "Ask again after Retry-After; operators: check the reward service, or set "
        "COREMESH_QUERIER_FILTER_WHEN_AWAY=pass."
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Aligned with the judged completions. ``rewards`` is NaN for what is not finite; None: not scored."""

    rewards: tuple[float, ...] | None
    safe: tuple[bool, ...]
    parts: dict[str, tuple[float, ...]] = field(default_factory=dict)
    stack_version: str = ""
    stats_version: int = 0
    degraded: frozenset[str] = frozenset()
    took_s: float = 0.0
    """What the service says it took."""


@dataclass(frozen=True, slots=True)
class Safety:
    """What the safety filter says. Not ``judged``: it is away. Not ``active``: there is none."""

    safe: tuple[bool, ...]
    judged: bool = True
    active: bool = False
    took_s: float = 0.0


class Judge:
    """Asks the reward service. Its being away shows in ``Verdict.degraded``, never as an error."""

    def __init__(self, reward: RewardPeer, *, filter_timeout: timedelta) -> None:
        self._reward = reward
        self._filter_timeout = filter_timeout
        self._no_filter_until = 0.0

    async def safe(self, texts: Sequence[str]) -> Safety:
        """Whether each text may pass."""
        everything = (True,) * len(texts)
        if not texts:
            return Safety(())
        if time.monotonic() < self._no_filter_until:
            return Safety(everything)
        safe: list[bool] = []
        took_s = 0.0
        for part in _in_parts(texts):
            try:
                answer = await self._reward.filter(FilterRequest(texts=part), self._filter_timeout)
            except CoremeshError as error:
                log.warning("nothing filtered", reason=error.message)
                return Safety(everything, judged=False)
            took_s += answer.took_s
            if not answer.active:
                self._no_filter_until = time.monotonic() + NO_FILTER_S
                return Safety(everything, took_s=took_s)
            if len(answer.safe) != len(part):
                log.warning("nothing filtered", reason="the filter's answer has another length")
                return Safety(everything, judged=False)
            safe += answer.safe
        return Safety(tuple(safe), active=True, took_s=took_s)

    async def judge(
        self,
        messages: tuple[ChatMessage, ...],
        completions: Sequence[str],
        *,
        kind: str,
        difference: bool,
        score: bool,
        filter_texts: bool,
        timeout_s: float,
    ) -> Verdict:
        """Rewards (when ``score``) and safety (when ``filter_texts``) of ``completions``, asked for at once.

        Of a completion over JUDGED_CHARS only the beginning is scored, so that one miner cannot make the whole
        request too large to be scored.
        """
        if not completions:
            return Verdict(rewards=() if score else None, safe=())
        degraded: set[str] = set()
        filtering = asyncio.create_task(self.safe(completions)) if filter_texts else None
        try:
            scored = None
            if score:
                beginnings = [completion[:JUDGED_CHARS] for completion in completions]
                scored = await self._score(messages, beginnings, kind, difference, timeout_s)
                if scored is None:
                    degraded.add("reward")
            safe: tuple[bool, ...] = (True,) * len(completions)
            took_s = scored.took_s if scored is not None else 0.0
            if filtering is not None:
                safety = await filtering
                safe = safety.safe
                took_s = max(took_s, safety.took_s)
                if not safety.judged:
                    degraded.add("filter")
        finally:
            if filtering is not None:
                filtering.cancel()
        if scored is None:
            return Verdict(rewards=None, safe=safe, degraded=frozenset(degraded), took_s=took_s)
        masks = {MASK_PREFIX + name: values for name, values in scored.masks.items()}
        parts = {**scored.raw, **masks, **scored.extra}
        return Verdict(
            rewards=tuple(reward if math.isfinite(reward) else math.nan for reward in scored.rewards),
            safe=safe,
            parts={name: values for name, values in parts.items() if len(values) == len(completions)},
            stack_version=scored.stack_version,
            stats_version=scored.stats_version,
            degraded=frozenset(degraded),
            took_s=took_s,
        )

    async def _score(
        self,
        messages: tuple[ChatMessage, ...],
        completions: Sequence[str],
        kind: str,
        difference: bool,
        timeout_s: float,
    ) -> RewardResponse | None:
        request = RewardRequest(
            messages=messages,
            completions=tuple(completions),
            kind=cast(RewardKind, kind),
            difference=difference,
        )
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(0.001, deadline - time.monotonic())
            try:
                answer = await self._reward.reward(request, timedelta(seconds=left))
                break
            except Busy as error:
                # A full queue slows the asker down instead of costing the event its rewards.
                if time.monotonic() + error.retry_after_s >= deadline:
                    log.warning("nothing scored", reason=error.message)
                    return None
                await asyncio.sleep(error.retry_after_s)
            except CoremeshError as error:
                log.warning("nothing scored", reason=error.message)
                return None
        if len(answer.rewards) != len(completions):
            log.warning("nothing scored", reason="the rewards have another length")
            return None
        return answer


def _in_parts(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """``texts`` in order, about FILTERED_AT_ONCE characters at a time."""
    part: list[str] = []
    chars = 0
    for text in texts:
        if part and chars + len(text) > FILTERED_AT_ONCE:
            yield tuple(part)
            part, chars = [], 0
        part.append(text)
        chars += len(text)
    yield tuple(part)
