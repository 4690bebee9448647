"""How one miner's score came about: the history folded again by the fold itself, stopping at the miner's events."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from coremesh.contracts import ExplainedEvent, ExplainedReset, Explanation, ScoreStanding
from coremesh.errors import NotFound, Unavailable
from coremesh.events import Event, ForwardEvent, MetagraphEvent
from coremesh.history import Entry
from coremesh.types import ORIGIN, StreamId, stream_key
from coremesh.wire.status import name_of
from services.weights import scores
from services.weights.book import Page
from services.weights.compute import Vector
from services.weights.recorded import Recorded, pages
from services.weights.rules import Rule, SoftmaxEma
from services.weights.scores import ScoreState

MOST_EVENTS = 500
MOST_STEPS = 2000


class UnknownMiner(NotFound):
    """There is no such uid in the scores."""

    code = "unknown_uid"
    default_remedy = "GET /scores lists the uids."


@dataclass(frozen=True, slots=True)
class Base:
    """A state from which the history can be folded on."""

    state: ScoreState
    place: StreamId


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who explains: our subnet and hotkey, and the vector that would be set."""

    netuid: int
    validator: str
    vector: Vector | None


def share(rule: Rule, event: ForwardEvent, place: int) -> float | None:
    """The softmax share of one asked miner, None where the rule has none."""
    if not isinstance(rule, SoftmaxEma):
        return None
    rewards = event.rewards.astype(np.float64)
    whole = replace(rule, alpha=0.0)
    return float(whole.contributions(rewards[:, None], np.isfinite(rewards)[:, None])[place, 0])


def standing(state: ScoreState, uid: int, rule: Rule) -> ScoreStanding:
    """What ``state`` holds of ``uid``; zeros for one that it does not know."""
    former = tuple(hexadecimal(digest) for digest in state.retired.get(uid, ()))
    if not 0 <= uid < state.size:
        return ScoreStanding(
            moving=0.0,
            score=0.0,
            successes=0,
            failures=0,
            hotkey=hexadecimal(0),
            former=former,
            excluded=False,
        )
    at = slice(uid, uid + 1)
    return ScoreStanding(
        moving=float(state.moving[uid]),
        score=float(rule.scores(state.moving[at], state.successes[at], state.failures[at])[0]),
        successes=int(state.successes[uid]),
        failures=int(state.failures[uid]),
        hotkey=hexadecimal(int(state.digests[uid])),
        former=former,
        excluded=bool(state.excluded[uid]),
    )


def hexadecimal(digest: int) -> str:
    """A digest as JSON can hold it for every reader."""
    return f"{digest:016x}"


async def explain(
    history: Recorded, page: Page, rule: Rule, uid: int, *, events: int, base: Base | None, speaker: Speaker
) -> Explanation:
    """Explain ``uid``'s score on ``page`` by its last ``events`` events.

    ``base``: where to fold from, ``Base(ScoreState(), ORIGIN)`` for a whole history; None: there is nothing to fold
    from, and the events are given without scores. Its state is changed. Raises UnknownMiner, HistoryUnavailable,
    and Unavailable when the events are trimmed away meanwhile.
    """
    if not 0 <= uid < page.state.size:
        raise UnknownMiner(f"there is no uid {uid}: the scores have {page.state.size}")
    trimmed = await history.trimmed()
    start = base.place if base else trimmed
    wanted: deque[StreamId] = deque(maxlen=events)
    async for entries in pages(history, start, page.last_id):
        wanted.extend(entry.stream_id for entry in entries if _asks(entry.event, uid))
    walk = _Walk(base.state if base else None, rule, uid, wanted[0] if len(wanted) == events else start)
    async for entries in pages(history, start, page.last_id):
        walk.take(entries, full=len(wanted) == events)
    if stream_key(await history.trimmed()) > stream_key(start):
        raise Unavailable("the history was trimmed while it was read", remedy="Ask again.")
    names = await history.resolve(sorted({*walk.digests, int(page.state.digests[uid])} - {0}))
    agrees = walk.state is not None and scores.dump(walk.state) == scores.dump(page.state)
    return Explanation(
        netuid=speaker.netuid,
        validator=speaker.validator,
        uid=uid,
        hotkey=names.get(int(page.state.digests[uid]), ""),
        rule=rule.format,
        standing=standing(page.state, uid, rule),
        rank=_rank(page.state, rule, uid),
        weight=_weight(speaker.vector, uid),
        excluded=bool(page.state.excluded[uid]),
        reset_block=int(page.state.reset_blocks[uid]),
        events=page.state.events,
        last_id=page.last_id,
        since=start,
        trimmed=trimmed,
        agrees=agrees,
        note=_note(base, trimmed, agrees),
        steps=tuple(walk.steps(names)),
    )


def _asks(event: Event, uid: int) -> bool:
    return isinstance(event, ForwardEvent) and scores.counts(event) and bool((event.uids == uid).any())


def _rank(state: ScoreState, rule: Rule, uid: int) -> int:
    found = rule.scores(state.moving, state.successes, state.failures)
    own = found[uid]
    return 1 + int(np.count_nonzero(found > own)) + int(np.count_nonzero(found[:uid] == own))


def _weight(vector: Vector | None, uid: int) -> float | None:
    if vector is None:
        return None
    return dict(zip(vector.uids, vector.weights, strict=True)).get(uid, 0.0)


def _note(base: Base | None, trimmed: StreamId, agrees: bool) -> str:
    start = "" if trimmed == ORIGIN else f"the history up to {trimmed} was trimmed away; "
    if base is None:
        return start + "no state behind it was kept, so shares are shown and scores before and after are not"
    if base.place != ORIGIN:
        start += f"recomputed from the state kept at {base.place}; "
    return start + ("every bit agrees with the served scores" if agrees else "THE SERVED SCORES ARE OTHERS")


@dataclass(slots=True)
class _Met:
    """One step, before hotkeys have their names."""

    entry: Entry
    before: ScoreStanding | None
    after: ScoreStanding | None
    old: int = 0
    new: int = 0
    excluded: bool = False
    restarted: bool = False


class _Walk:
    """The fold, stopped before and after everything that is about one uid."""

    def __init__(self, state: ScoreState | None, rule: Rule, uid: int, first: StreamId) -> None:
        self.state = state
        self.digests: set[int] = set()
        self._rule = rule
        self._uid = uid
        self._first = stream_key(first)
        self._met: list[_Met] = []

    def take(self, entries: list[Entry], *, full: bool) -> None:
        """Fold entries. ``full``: there are more than the wanted steps, so those before the first are only folded."""
        waiting: list[Event] = []
        for entry in entries:
            if full and stream_key(entry.stream_id) < self._first:
                waiting.append(entry.event)
            elif _asks(entry.event, self._uid) or isinstance(entry.event, MetagraphEvent):
                self._fold(waiting)
                waiting = []
                self._step(entry)
            else:
                waiting.append(entry.event)
        self._fold(waiting)

    def _fold(self, events: list[Event]) -> None:
        if self.state is not None and events:
            self.state = scores.fold(self.state, events, self._rule)

    def _held(self) -> tuple[int, bool]:
        if self.state is None or self._uid >= self.state.size:
            return 0, False
        return int(self.state.digests[self._uid]), bool(self.state.excluded[self._uid])

    def _step(self, entry: Entry) -> None:
        if self.state is None:
            if isinstance(entry.event, ForwardEvent):
                self._met.append(_Met(entry, None, None))
            return
        before, (old, was) = standing(self.state, self._uid, self._rule), self._held()
        self._fold([entry.event])
        after, (new, excluded) = standing(self.state, self._uid, self._rule), self._held()
        met = _Met(entry, before, after, old, new, excluded, old != new)
        if isinstance(entry.event, ForwardEvent):
            self._met.append(met)
        elif old != new or was != excluded or before != after:
            self.digests |= {old, new}
            self._met.append(met)

    def steps(self, names: dict[int, str]) -> list[ExplainedEvent | ExplainedReset]:
        """What was met, oldest first."""
        made: list[ExplainedEvent | ExplainedReset] = []
        for met in self._met[-MOST_STEPS:]:
            event = met.entry.event
            if isinstance(event, ForwardEvent):
                made.append(_event(met, event, self._uid, self._rule))
            else:
                made.append(_reset(met, event, names))
        return made


def _event(met: _Met, event: ForwardEvent, uid: int, rule: Rule) -> ExplainedEvent:
    places = tuple(np.flatnonzero(event.uids == uid).tolist())
    place = places[0]
    rewards = tuple(float(r) if np.isfinite(r) else None for r in event.rewards)
    counted = met.before is None or met.before != met.after
    note = ""
    if met.restarted:
        note = "started again from 0: the event showed a new hotkey"
    elif not counted:
        note = "a validator over the stake limit" if met.excluded else "the miner asked held another hotkey"
    return ExplainedEvent(
        event_id=event.id,
        stream_id=met.entry.stream_id,
        time_ms=event.time_ms,
        block=event.block,
        kind=event.kind,
        asked=len(event.uids),
        places=places,
        hotkeys=tuple(hexadecimal(int(event.hotkeys[at])) for at in places),
        rewards=rewards,
        reward=rewards[place],
        status=name_of(int(event.status[place])) if place < len(event.status) else "",
        share=share(rule, event, place),
        counted=counted,
        note=note,
        restarted=met.restarted,
        before=met.before,
        after=met.after,
    )


def _reset(met: _Met, event: MetagraphEvent, names: dict[int, str]) -> ExplainedReset:
    assert met.before is not None
    assert met.after is not None
    if met.old != met.new:
        reason = "the uid has another hotkey" if met.new else "the uid is gone"
    else:
        reason = (
            "became a validator over the stake limit" if met.excluded else "is no such validator any more"
        )
    return ExplainedReset(
        event_id=event.id,
        stream_id=met.entry.stream_id,
        time_ms=event.time_ms,
        block=event.block,
        old_hotkey=names.get(met.old, ""),
        new_hotkey=names.get(met.new, ""),
        reason=reason,
        before=met.before,
        after=met.after,
    )
