"""Whom to ask: by gating; without it by moving score; without that at random."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import structlog

from coremesh.contracts import ChatMessage, ScoreRequest, ScoreResponse
from coremesh.errors import CoremeshError
from coremesh.mesh import GatingPeer
from coremesh.metagraph import Neuron
from services.querier.standing import Standing

log = structlog.get_logger(__name__)

TopK = int | Literal["auto"] | None
"""How many miners: a number, as many as pay (gating decides), or None for all."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The miners to ask, the most promising first. ``gating`` is aligned with them, or empty without gating."""

    neurons: tuple[Neuron, ...]
    gating: tuple[float, ...]
    head_version: int
    degraded: bool
    random: bool
    """Drawn uniformly: each available miner was as likely as any other."""
    propensity: tuple[float, ...] = ()
    """How likely each was to be asked, aligned with ``neurons``; empty when it is not known."""
    took_s: float = 0.0
    """What gating says it took."""


class Chooser:
    """Chooses among available miners. ``auto_k`` is how many to ask for ``auto`` while gating is away."""

    def __init__(
        self,
        gating: GatingPeer,
        standing: Standing,
        *,
        timeout: timedelta,
        auto_k: int,
        seed: int | None = None,
    ) -> None:
        self._gating = gating
        self._standing = standing
        self._timeout = timeout
        self._auto_k = auto_k
        self._random = random.Random(seed)

    async def choose(
        self,
        available: Sequence[Neuron],
        messages: tuple[ChatMessage, ...],
        *,
        topk: TopK,
        sample: bool = False,
        deadline_s: float | None = None,
    ) -> Choice:
        """``topk`` of ``available``, all of them when there are fewer. Never raises for a missing service."""
        k = len(available) if topk is None else topk
        if k != "auto":
            k = min(k, len(available))
        request = ScoreRequest(
            messages=messages,
            uids=tuple(neuron.uid for neuron in available),
            k=k,
            random=sample,
            deadline_s=deadline_s,
        )
        try:
            answer = await self._gating.score(request, self._timeout)
            chosen = _by_gating(available, answer, sample)
        except CoremeshError as error:
            log.warning("choosing without gating", reason=error.message)
            chosen = None
        if chosen is None or not chosen.neurons:
            return await self._without_gating(available, self._auto_k if k == "auto" else k, sample)
        return chosen

    async def _without_gating(self, available: Sequence[Neuron], k: int, sample: bool) -> Choice:
        shuffled = self._random.sample(available, len(available))
        scores = {} if sample else await self._standing.scores()
        # Sorting is stable: miners of equal standing stay in random order.
        shuffled.sort(key=lambda neuron: -scores.get(neuron.hotkey, 0.0))
        drawn = sample or not scores
        return Choice(
            neurons=tuple(shuffled[:k]),
            gating=(),
            head_version=0,
            degraded=True,
            random=drawn,
            propensity=(k / len(available),) * k if drawn else (),
        )


def _by_gating(available: Sequence[Neuron], answer: ScoreResponse, sample: bool) -> Choice | None:
    """The choice in gating's answer; uids that cannot be asked any more are left out."""
    askable = {neuron.uid: neuron for neuron in available}
    scores = dict(zip(answer.uids, answer.scores, strict=False))
    uids = [
        uid
        for uid in dict.fromkeys(answer.chosen)
        if uid in askable and math.isfinite(scores.get(uid, math.nan))
    ]
    if not uids:
        return None
    uids.sort(key=lambda uid: -scores[uid])
    propensity: dict[int, float] = {}
    if len(answer.propensities) == len(answer.chosen):
        propensity = dict(zip(answer.chosen, answer.propensities, strict=True))
    return Choice(
        neurons=tuple(askable[uid] for uid in uids),
        gating=tuple(scores[uid] for uid in uids),
        head_version=answer.head_version,
        degraded=False,
        random=sample and _is_uniform(answer, len(available)),
        propensity=tuple(propensity[uid] for uid in uids) if propensity else (),
        took_s=answer.took_s,
    )


def _is_uniform(answer: ScoreResponse, available: int) -> bool:
    """Whether gating drew its sample uniformly: once it has learnt, a part of it is drawn by promise."""
    share = len(answer.chosen) / available
    return len(answer.propensities) == len(answer.chosen) and all(
        math.isclose(propensity, share, rel_tol=1e-6) for propensity in answer.propensities
    )
