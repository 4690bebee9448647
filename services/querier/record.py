"""From what happened in a forward to the event that the history keeps."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coremesh.events import Flag, ForwardEvent, Message, Transcript, forward_event
from services.querier.choose import Choice
from services.querier.judge import Verdict
from services.querier.query import Query
from services.querier.replies import Replies


@dataclass(frozen=True, slots=True)
class Judged:
    """The judged completions: indices of the good ones, columns over all that were asked (NaN elsewhere)."""

    indices: tuple[int, ...]
    verdict: Verdict
    rewards: NDArray[np.float32]
    parts: dict[str, NDArray[np.float32]]


NOTHING_JUDGED = Judged((), Verdict(rewards=None, safe=()), np.zeros(0, dtype=np.float32), {})


def column(n: int, indices: list[int], values: tuple[float, ...]) -> NDArray[np.float32]:
    """float32 [n], NaN but for ``values`` at ``indices``."""
    filled = np.full(n, np.nan, dtype=np.float32)
    filled[indices] = values
    return filled


def flags_of(query: Query, choice: Choice, judged: Judged, *, told: bool) -> Flag:
    """What the event counts for: scored only with a finite reward, and only then anything to learn from."""
    flags = Flag.NONE
    if query.scored and bool(np.isfinite(judged.rewards).any()):
        flags |= Flag.SCORED
        if query.train_gating and not query.private:
            flags |= Flag.TRAIN_GATING
    if told:
        flags |= Flag.TRAIN_NETWORK
    if choice.random:
        flags |= Flag.RANDOM_SAMPLE
    if query.private:
        flags |= Flag.PRIVATE
    return flags


def event_of(
    query: Query,
    choice: Choice,
    replies: Replies,
    judged: Judged,
    *,
    best: int,
    told: bool,
    block: int,
    available: int,
    degraded: tuple[str, ...],
    trace: str = "",
) -> tuple[ForwardEvent, Transcript | None, list[str]]:
    """The event, its texts (None when there are none to keep) and the hotkeys behind its digests.

    ``best`` is an index into the asked, -1 for none.
    """
    kept = replies.counted()
    hotkeys = [choice.neurons[i].hotkey for i in kept]
    event = forward_event(
        id=query.id,
        time_ms=time.time_ns() // 1_000_000,
        block=block,
        kind=query.kind,
        flags=flags_of(query, choice, judged, told=told),
        messages=() if query.private else tuple(Message(m.role, m.content) for m in query.messages),
        uids=[choice.neurons[i].uid for i in kept],
        hotkeys=hotkeys,
        status=[int(replies.statuses[i] or 0) for i in kept],
        latency_s=[replies.latencies_s[i] for i in kept],
        rewards=judged.rewards[kept],
        parts={name: values[kept] for name, values in judged.parts.items()},
        gating=[choice.gating[i] for i in kept] if choice.gating else (),
        best=kept.index(best) if best >= 0 else -1,
        head_version=choice.head_version,
        stack_version=judged.verdict.stack_version,
        stats_version=judged.verdict.stats_version,
        degraded=degraded,
        available=available,
        propensity=[choice.propensity[i] for i in kept] if choice.propensity else (),
        trace=trace,
    )
    transcript = None
    if kept and not query.private:
        transcript = Transcript(id=query.id, completions=tuple(replies.completions[i] for i in kept))
    return event, transcript, hotkeys
