"""Moving scores as a pure fold over the history.

**Whose entry is it?** An entry of a forward event names a uid and the hotkey that was asked. It counts for the
uid when that is the hotkey in the state. Otherwise:

- a hotkey that a metagraph event has *retired* from this uid is late news (a forward that was under way, or waited
  on disk, while the uid changed hands): the entry is ignored, and neither credited to the new hotkey nor takes
  the uid back;
- any other hotkey is one that the metagraph events have not announced yet: the uid starts again from 0 with it,
  and the announcement, when it comes, changes nothing more;
- an entry without a hotkey, or of an excluded validator, is ignored.

Ignored entries still take part in the softmax of their event: contributions depend on the event alone. An event
counts when it is flagged SCORED and has at least one finite reward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from coremesh.events import Event, Flag, ForwardEvent, MetagraphEvent
from coremesh.types import hotkey_digest
from services.weights.exact import Floats, Indices
from services.weights.rules import Rule

Digests = NDArray[np.uint64]
LAYOUT = "scores/1"
SCORED = int(Flag.SCORED)
RETIRED_KEPT = 4
"""Former hotkeys remembered per uid."""


@dataclass(slots=True)
class ScoreState:
    """Where every uid stands. Arrays are [n] in uid order."""

    moving: Floats = field(default_factory=lambda: np.zeros(0))
    digests: Digests = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Of the hotkeys scored; 0 while unknown."""
    successes: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    failures: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    excluded: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Validators over the stake limit."""
    reset_blocks: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """The block of the event at which the uid last started from 0."""
    seen: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """The number (in ``events``) of the newest scored event that counted for the uid."""
    retired: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    """Digests of the former hotkeys of a uid, newest last."""
    events: int = 0
    """Scored events folded."""
    block: int = 0
    """Of the newest metagraph event."""
    announced: int = 0
    """The size of the network in the newest metagraph event."""
    scored_ms: int = 0
    """Time of the newest scored event."""

    @property
    def size(self) -> int:
        """The number of uids."""
        return len(self.moving)

    def resize(self, size: int) -> None:
        """Forget uids from ``size`` on, or begin new ones at 0."""
        if size == self.size:
            return
        for name in ("moving", "digests", "successes", "failures", "excluded", "reset_blocks", "seen"):
            old = getattr(self, name)
            new = np.zeros(size, old.dtype)
            new[: min(size, len(old))] = old[:size]
            setattr(self, name, new)

    def reset(self, uid: int, digest: int, block: int) -> None:
        """Start a uid from 0 with a hotkey."""
        self.moving[uid] = 0.0
        self.digests[uid] = digest
        self.successes[uid] = self.failures[uid] = self.seen[uid] = 0
        self.reset_blocks[uid] = block

    def retire(self, uid: int, digest: int) -> None:
        """Remember that a hotkey no longer holds a uid."""
        if digest:
            others = tuple(d for d in self.retired.get(uid, ()) if d != digest)
            self.retired[uid] = (*others, digest)[-RETIRED_KEPT:]

    def unretire(self, uid: int, digest: int) -> None:
        """A former hotkey has come back to its uid."""
        left = tuple(d for d in self.retired.get(uid, ()) if d != digest)
        if left:
            self.retired[uid] = left
        else:
            self.retired.pop(uid, None)


def fold(state: ScoreState, events: Iterable[Event], rule: Rule) -> ScoreState:
    """Fold ``events`` into ``state``, in their order, and give it back. Any split into calls gives the same bits."""
    run: list[ForwardEvent] = []
    for event in events:
        if isinstance(event, MetagraphEvent):
            _fold_run(state, run, rule)
            run = []
            _fold_metagraph(state, event)
        elif event.flags & SCORED and _sound(event):
            run.append(event)
    _fold_run(state, run, rule)
    return state


def counts(event: Event) -> bool:
    """Whether an event is one of the scored."""
    return (
        isinstance(event, ForwardEvent)
        and event.scored
        and _sound(event)
        and bool(np.isfinite(event.rewards).any())
    )


def _sound(event: ForwardEvent) -> bool:
    """Whether the columns have one length: a broken event must not stop the fold for ever."""
    n = len(event.uids_)
    return n % 2 == 0 and len(event.hotkeys_) == 4 * n and len(event.rewards_) == 2 * n


def _fold_metagraph(state: ScoreState, event: MetagraphEvent) -> None:
    state.resize(max(state.size, event.size))
    for change in event.changes:
        if not 0 <= change.uid < state.size:
            continue
        old = hotkey_digest(change.old) if change.old else 0
        new = hotkey_digest(change.new) if change.new else 0
        held = int(state.digests[change.uid])
        state.retire(change.uid, old)
        if held != new:
            state.retire(change.uid, held)
            state.reset(change.uid, new, event.block)
        state.unretire(change.uid, new)
    state.resize(event.size)
    excluded = np.zeros(event.size, np.bool_)
    excluded[event.excluded[event.excluded < event.size]] = True
    for uid in np.flatnonzero(excluded & ~state.excluded).tolist():
        state.reset(uid, int(state.digests[uid]), event.block)
    state.excluded = excluded
    state.block = event.block
    state.announced = event.size


@dataclass(slots=True)
class _Run:
    """Scored events between two metagraph events, as flat columns [m]; ``segment`` numbers the events."""

    uids: NDArray[np.uint16]
    digests: Digests
    success: NDArray[np.bool_]
    contributions: Floats
    segment: Indices
    bounds: Indices
    blocks: list[int]


def _fold_run(state: ScoreState, events: Sequence[ForwardEvent], rule: Rule) -> None:
    run, events = _columns(events, rule)
    if run is None:
        return
    _grow(state, run)
    base, at, count = state.events, 0, len(events)
    while at < count:
        until, counted = _countable(state, run, at)
        lo, hi = int(run.bounds[at]), int(run.bounds[until])
        entries = slice(lo, hi) if counted is None else lo + np.flatnonzero(counted[: hi - lo])
        _add(state, run, entries, rule.keep, base + 1)
        at = until
        if at < count:
            _add_with_resets(state, run, at, rule.keep, base + 1)
            at += 1
    state.events = base + count
    state.scored_ms = max(state.scored_ms, max(event.time_ms for event in events))


def _columns(events: Sequence[ForwardEvent], rule: Rule) -> tuple[_Run | None, Sequence[ForwardEvent]]:
    lengths = np.array([len(event.uids_) // 2 for event in events], np.int64)
    rewards = np.frombuffer(b"".join([event.rewards_ for event in events]), "<f4")
    success = np.isfinite(rewards)
    segment = np.repeat(np.arange(len(events)), lengths)
    good = np.bincount(segment[success], minlength=len(events)) > 0
    if not good.all():
        return _columns([e for e, ok in zip(events, good, strict=True) if ok], rule)
    if not len(events):
        return None, events
    with np.errstate(invalid="ignore"):
        contributions = rule.contributions(rewards.astype(np.float64), success, segment, len(events))
    return _Run(
        uids=np.frombuffer(b"".join([event.uids_ for event in events]), "<u2"),
        digests=np.frombuffer(b"".join([event.hotkeys_ for event in events]), "<u8"),
        success=success,
        contributions=contributions,
        segment=segment,
        bounds=np.concatenate(([0], np.cumsum(lengths))),
        blocks=[event.block for event in events],
    ), events


def _grow(state: ScoreState, run: _Run) -> None:
    """Make room for uids that no metagraph event has announced; drop entries of uids that are gone."""
    beyond = run.uids >= state.size
    if not beyond.any():
        return
    top = state.size
    for i in np.flatnonzero(beyond).tolist():
        uid, digest = int(run.uids[i]), int(run.digests[i])
        if digest and digest not in state.retired.get(uid, ()):
            top = max(top, uid + 1)
    state.resize(top)
    kept = run.uids < top
    if not kept.all():
        run.bounds = np.concatenate(([0], np.cumsum(kept)))[run.bounds]
        for name in ("uids", "digests", "success", "contributions", "segment"):
            setattr(run, name, getattr(run, name)[kept])


def _countable(state: ScoreState, run: _Run, at: int) -> tuple[int, NDArray[np.bool_] | None]:
    """From event ``at`` on: the first event with an unannounced hotkey, and which entries count until there (None:
    all)."""
    lo = int(run.bounds[at])
    uids, digests = run.uids[lo:], run.digests[lo:]
    counted = (state.digests[uids] == digests) & (digests != 0) & ~state.excluded[uids]
    if counted.all():
        return len(run.blocks), None
    for i in np.flatnonzero(~counted).tolist():
        if _unannounced(state, int(uids[i]), int(digests[i])):
            return int(run.segment[lo + i]), counted
    return len(run.blocks), counted


def _unannounced(state: ScoreState, uid: int, digest: int) -> bool:
    """Whether an entry that is not of the hotkey in the state makes the uid start again."""
    return (
        digest != 0
        and not state.excluded[uid]
        and digest != int(state.digests[uid])
        and digest not in state.retired.get(uid, ())
    )


def _add(state: ScoreState, run: _Run, entries: Indices | slice, keep: float, first: int) -> None:
    """Add entries that all count, at once.

    The n-th entries of all uids are added together: each uid sees its own entries in their order, with the same
    two roundings each as one by one, and the loop is as long as the busiest uid's list.
    """
    uids = run.uids[entries]
    if not len(uids):
        return
    order = np.argsort(uids, kind="stable")
    counts = np.bincount(uids, minlength=state.size)
    ends = np.cumsum(counts)
    active = np.flatnonzero(counts)
    state.seen[active] = run.segment[entries][order[ends[active] - 1]] + first
    good = np.bincount(uids, weights=run.success[entries], minlength=state.size).astype(np.int64)
    state.successes += good
    state.failures += counts - good
    # Layer n holds the n-th entry of every uid that has one, the busiest uid first.
    busiest_first = active[np.argsort(-counts[active], kind="stable")]
    widths = np.searchsorted(-counts[busiest_first], -np.arange(counts.max()))
    offsets = np.cumsum(widths) - widths
    column = np.zeros(state.size, np.int64)
    column[busiest_first] = np.arange(len(active))
    nth = np.arange(len(uids)) - np.repeat(ends - counts, counts)
    layers = np.empty(len(uids))
    layers[offsets[nth] + np.repeat(column, counts)] = run.contributions[entries][order]
    moving = state.moving[busiest_first]
    for offset, width in zip(offsets.tolist(), widths.tolist(), strict=True):
        head = moving[:width]
        np.multiply(head, keep, out=head)
        np.add(head, layers[offset : offset + width], out=head)
    state.moving[busiest_first] = moving


def _add_with_resets(state: ScoreState, run: _Run, at: int, keep: float, first: int) -> None:
    """Add one event entry by entry, starting uids again where it shows an unannounced hotkey."""
    for i in range(int(run.bounds[at]), int(run.bounds[at + 1])):
        uid, digest = int(run.uids[i]), int(run.digests[i])
        if _unannounced(state, uid, digest):
            state.reset(uid, digest, run.blocks[at])
        elif digest == 0 or state.excluded[uid] or digest != int(state.digests[uid]):
            continue
        state.moving[uid] = keep * state.moving[uid] + run.contributions[i]
        counter = state.successes if run.success[i] else state.failures
        counter[uid] += 1
        state.seen[uid] = first + at


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    moving: bytes
    digests: bytes
    successes: bytes
    failures: bytes
    excluded: bytes
    reset_blocks: bytes
    seen: bytes
    retired: dict[int, tuple[int, ...]]
    events: int
    block: int
    announced: int
    scored_ms: int


_packed_decoder = msgspec.msgpack.Decoder(_Packed)


def dump(state: ScoreState) -> bytes:
    """The state as msgpack with little-endian arrays: equal states give equal bytes."""
    return msgspec.msgpack.encode(
        _Packed(
            moving=state.moving.astype("<f8").tobytes(),
            digests=state.digests.astype("<u8").tobytes(),
            successes=state.successes.astype("<u4").tobytes(),
            failures=state.failures.astype("<u4").tobytes(),
            excluded=np.packbits(state.excluded).tobytes(),
            reset_blocks=state.reset_blocks.astype("<u4").tobytes(),
            seen=state.seen.astype("<u8").tobytes(),
            retired=dict(sorted(state.retired.items())),
            events=state.events,
            block=state.block,
            announced=state.announced,
            scored_ms=state.scored_ms,
        )
    )


def load(packed: bytes) -> ScoreState:
    """The state in ``packed``. Raises msgspec.DecodeError or ValidationError when it is not one."""
    p = _packed_decoder.decode(packed)
    moving = np.frombuffer(p.moving, "<f8").copy()
    excluded = np.unpackbits(np.frombuffer(p.excluded, "u1"), count=len(moving))
    return ScoreState(
        moving=moving,
        digests=np.frombuffer(p.digests, "<u8").copy(),
        successes=np.frombuffer(p.successes, "<u4").astype(np.int64),
        failures=np.frombuffer(p.failures, "<u4").astype(np.int64),
        excluded=excluded.astype(np.bool_),
        reset_blocks=np.frombuffer(p.reset_blocks, "<u4").astype(np.int64),
        seen=np.frombuffer(p.seen, "<u8").astype(np.int64),
        retired=p.retired,
        events=p.events,
        block=p.block,
        announced=p.announced,
        scored_ms=p.scored_ms,
    )
