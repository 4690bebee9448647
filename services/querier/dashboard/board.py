"""From what is known to what is shown: the leaderboard, a miner's page, events and learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np

from coremesh.contracts import HeadResponse, ScoresResponse, WeightsResponse
from coremesh.events import ForwardEvent, Transcript
from coremesh.history import Entry
from coremesh.metagraph import Metagraph, Neuron
from coremesh.types import finite, hotkey_digest
from coremesh.wire.status import Status, name_of
from services.querier.dashboard.cached import Seen
from services.querier.dashboard.follower import HistoryFollower
from services.querier.dashboard.learning import curve
from services.querier.dashboard.peers import SubmissionRecord
from services.querier.dashboard.shapes import (
    EventMiner,
    EventResponse,
    EventRow,
    EventText,
    LeaderboardResponse,
    LeaderRow,
    LearningPoint,
    LearningResponse,
    MinerEvent,
    MinerPage,
    MinerSample,
    SubmissionList,
    SubmissionSummary,
)
from services.querier.dashboard.window import Samples, Window

SPARKLINE = 40
"""Rewards in a leaderboard's row."""
MINER_EVENTS = 15
LOOKED_AT = 500
"""Newest events in which a miner is looked for."""
SHOWN_CHARS = 4_000
"""Characters shown of one text."""
TOP = 5

Role = Literal["miner", "validator", "self", "silent"]


def leaderboard(
    metagraph: Metagraph | None,
    own_hotkey: str,
    window: Window,
    scores: Seen[ScoresResponse],
    weights: Seen[WeightsResponse],
) -> LeaderboardResponse:
    """Every uid of the snapshot; empty while none is known."""
    uids = range(metagraph.size) if metagraph else ()
    rows = _leaders(uids, metagraph, own_hotkey, window, scores.value, weights.value) if metagraph else []
    return LeaderboardResponse(
        block=metagraph.block if metagraph else 0,
        stale=scores.problem or weights.problem,
        stale_s=max(scores.age_s, weights.age_s),
        rows=tuple(rows),
    )


def miner(
    uid: int,
    metagraph: Metagraph,
    own_hotkey: str,
    follower: HistoryFollower,
    scores: Seen[ScoresResponse],
    weights: Seen[WeightsResponse],
) -> MinerPage:
    """One uid of the snapshot in full."""
    neuron = metagraph.neurons[uid]
    digest = hotkey_digest(neuron.hotkey)
    samples = follower.window.samples(digest)
    standing = next((row for row in scores.value.rows if row.uid == uid), None) if scores.value else None
    if standing is not None and standing.hotkey != neuron.hotkey:
        standing = None
    better = (
        [row for row in scores.value.rows if (-row.score, row.uid) < (-standing.score, uid)]
        if scores.value and standing
        else []
    )
    return MinerPage(
        row=_leaders([uid], metagraph, own_hotkey, follower.window, scores.value, weights.value)[0],
        rank=len(better) + 1 if standing is not None and not standing.excluded else None,
        coldkey=neuron.coldkey,
        stake=neuron.stake,
        registered_at=neuron.registered_at,
        last_update=neuron.last_update,
        successes=standing.successes if standing else None,
        failures=standing.failures if standing else None,
        reset_block=standing.reset_block if standing else None,
        statuses=dict(Counter(name_of(code) for code in samples.status.tolist()).most_common()),
        samples=tuple(_samples(samples)),
        events=tuple(_with(digest, follower)),
        stale=scores.problem or weights.problem,
    )


def event_row(entry: Entry) -> EventRow:
    """A line of the live list."""
    event = entry.event
    if not isinstance(event, ForwardEvent):
        return EventRow(
            stream_id=entry.stream_id,
            event_id=event.id,
            time_ms=event.time_ms,
            block=event.block,
            kind="metagraph",
            flags=(),
            asked=0,
            succeeded=0,
            best_uid=None,
            best_reward=None,
            mean_reward=None,
            slowest_s=None,
            degraded=(),
            changes=len(event.changes),
        )
    rewards = event.rewards[np.isfinite(event.rewards)]
    best = event.best if 0 <= event.best < len(event.uids) else -1
    latencies = event.latency_s[np.isfinite(event.latency_s)]
    return EventRow(
        stream_id=entry.stream_id,
        event_id=event.id,
        time_ms=event.time_ms,
        block=event.block,
        kind=event.kind,
        flags=event.flag_names,
        asked=len(event.uids),
        succeeded=int((event.status == Status.OK).sum()),
        best_uid=int(event.uids[best]) if best >= 0 else None,
        best_reward=finite(event.rewards[best]) if best >= 0 else None,
        mean_reward=finite(rewards.mean()) if rewards.size else None,
        slowest_s=finite(latencies.max()) if latencies.size else None,
        degraded=event.degraded,
    )


def event(
    entry: Entry,
    event: ForwardEvent,
    hotkeys: dict[int, str],
    *,
    texts: bool,
    full: ForwardEvent | None,
    transcript: Transcript | None,
) -> EventResponse:
    """One forward in full; ``full`` is the event with its messages, both it and ``transcript`` for operators only."""
    completions = transcript.completions if texts and transcript is not None else ()
    gating = event.gating if len(event.gating) == len(event.uids) else np.full(len(event.uids), np.nan)
    parts = {name[:60]: values for name, values in event.parts.items() if len(values) == len(event.uids)}
    miners = [
        EventMiner(
            uid=int(uid),
            hotkey=hotkeys.get(int(event.hotkeys[i]), ""),
            status=name_of(int(event.status[i])),
            latency_s=finite(event.latency_s[i]) or 0.0,
            reward=finite(event.rewards[i]),
            gating=finite(gating[i]),
            parts={name: finite(values[i]) for name, values in parts.items()},
            completion=completions[i][:SHOWN_CHARS] if i < len(completions) else None,
            chars=len(completions[i]) if i < len(completions) else None,
        )
        for i, uid in enumerate(event.uids)
    ]
    miners.sort(key=lambda m: (m.reward is None, -(m.reward or 0.0)))
    return EventResponse(
        event=event_row(entry),
        stack_version=event.stack_version,
        head_version=event.head_version,
        available=event.available,
        texts=texts,
        prompt=tuple(
            EventText(role=m.role, content=m.content[:SHOWN_CHARS], chars=len(m.content))
            for m in full.messages
        )
        if texts and full is not None
        else None,
        miners=tuple(miners),
    )


def submissions(
    records: Iterable[SubmissionRecord], held: str | None, stale: str | None, stale_s: float
) -> SubmissionList:
    """Attempts by their newest record."""
    newest: dict[str, SubmissionRecord] = {}
    for record in records:
        newest.setdefault(record.id, record)
    return SubmissionList(
        submissions=tuple(_submission(record) for record in newest.values()),
        held=held,
        stale=stale,
        stale_s=stale_s,
    )


def learning(follower: HistoryFollower, head: Seen[HeadResponse]) -> LearningResponse:
    """The curve, and what gating says of itself."""
    lessons = follower.lessons
    recent = lessons[-max(1, len(lessons) // 4) :]
    first = sum(one.first for one in recent)
    mean = sum(one.mean for one in recent)
    known = head.value
    return LearningResponse(
        points=tuple(LearningPoint(**point._asdict()) for point in curve(lessons, follower.lessons_before)),
        events=len(lessons),
        lift=first / mean if mean > 0 else None,
        rule=known.rule if known else None,
        version=known.version if known else None,
        steps=known.steps if known else None,
        hotkeys=known.hotkeys if known else None,
        features=known.features if known else None,
        stale=head.problem,
    )


def _leaders(
    uids: Iterable[int],
    metagraph: Metagraph,
    own_hotkey: str,
    window: Window,
    scores: ScoresResponse | None,
    weights: WeightsResponse | None,
) -> list[LeaderRow]:
    neurons = [metagraph.neurons[uid] for uid in uids]
    summary = window.summary([hotkey_digest(neuron.hotkey) for neuron in neurons], SPARKLINE)
    wanted = _shares(dict(zip(weights.uids, weights.weights, strict=False)) if weights else None)
    held = _shares(weights.on_chain if weights else None)
    asked, last_ms = summary.asked.tolist(), summary.last_ms.tolist()
    columns = (summary.success, summary.latency_s, summary.reward)
    success, latency, reward = ([finite(one) for one in column.tolist()] for column in columns)
    newest = [[finite(one) for one in row] for row in summary.newest.round(4).tolist()]
    return [
        LeaderRow(
            uid=neuron.uid,
            hotkey=neuron.hotkey,
            role=_role(neuron, metagraph, own_hotkey),
            score=_score(neuron, scores),
            weight=wanted(neuron.uid),
            on_chain=held(neuron.uid),
            asked=asked[i],
            success=success[i],
            latency_s=latency[i],
            reward=reward[i],
            rewards=tuple(newest[i][-asked[i] :]) if asked[i] else (),
            last_status=name_of(int(summary.last_status[i])) if asked[i] else None,
            last_ms=last_ms[i] if asked[i] else None,
        )
        for i, neuron in enumerate(neurons)
    ]


def _shares(values: Mapping[int, float] | None) -> Callable[[int], float | None]:
    total = sum(values.values()) if values else 0.0
    if not values or total <= 0:
        return lambda uid: None
    return lambda uid: values.get(uid, 0.0) / total


def _role(neuron: Neuron, metagraph: Metagraph, own_hotkey: str) -> Role:
    if neuron.hotkey in (own_hotkey, metagraph.hotkey):
        return "self"
    if metagraph.is_validator(neuron):
        return "validator"
    return "miner" if neuron.serving else "silent"


def _score(neuron: Neuron, scores: ScoresResponse | None) -> float | None:
    # Rows are in uid order; one that stands for another hotkey is not this miner's yet.
    if scores is None or neuron.uid >= len(scores.rows):
        return None
    row = scores.rows[neuron.uid]
    return row.score if row.hotkey == neuron.hotkey else None


def _samples(samples: Samples) -> Iterable[MinerSample]:
    columns = (samples.time_ms, samples.status, samples.latency_s, samples.rewards)
    for time_ms, status, latency, reward in zip(*(column.tolist() for column in columns), strict=True):
        yield MinerSample(
            time_ms=time_ms,
            status=name_of(status),
            latency_s=finite(latency) or 0.0,
            reward=finite(reward) if status == Status.OK else None,
        )


def _with(digest: int, follower: HistoryFollower) -> Iterable[MinerEvent]:
    found = 0
    for entry in follower.newest(LOOKED_AT):
        event = entry.event
        if (
            not isinstance(event, ForwardEvent)
            or not (places := np.flatnonzero(event.hotkeys == digest)).size
        ):
            continue
        at = int(places[0])
        yield MinerEvent(
            **event_row(entry).model_dump(),
            own_status=name_of(int(event.status[at])),
            own_reward=finite(event.rewards[at]),
        )
        found += 1
        if found == MINER_EVENTS:
            return


def _submission(record: SubmissionRecord) -> SubmissionSummary:
    ranked = sorted(zip(record.weights, record.uids, strict=False), key=lambda pair: (-pair[0], pair[1]))
    return SubmissionSummary(
        id=record.id,
        time_ms=record.time_ms,
        block=record.block,
        landed_block=record.landed_block,
        result=record.result,
        reason=record.reason[:500],
        miners=sum(weight > 0 for weight in record.weights),
        top=tuple(uid for weight, uid in ranked[:TOP] if weight > 0),
        commit_reveal=record.commit_reveal,
        rule=record.rule[:200],
    )
