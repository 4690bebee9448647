"""Adding a run of scored events to the state at once, with the same roundings as one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.weights.columns import Run
from services.weights.exact import Floats, Indices
from services.weights.state import ScoreState


def add(state: ScoreState, run: Run, keep: float) -> None:
    """Fold ``run`` into ``state``. ``keep``: the share of a moving value that an event keeps."""
    run = _grow(state, run)
    base, at, count = state.events, 0, len(run.events)
    while at < count:
        until, counted = _countable(state, run, at)
        lo, hi = int(run.bounds[at]), int(run.bounds[until])
        entries = slice(lo, hi) if counted is None else lo + np.flatnonzero(counted[: hi - lo])
        _add(state, run, entries, keep, base + 1)
        at = until
        if at < count:
            _add_with_resets(state, run, at, keep, base + 1)
            at += 1
    state.events = base + count
    state.scored_ms = max(state.scored_ms, max([event.time_ms for event in run.events]))


def _grow(state: ScoreState, run: Run) -> Run:
    """Make room for uids that no metagraph event has announced; drop entries of uids that are gone."""
    if not len(run.uids) or int(run.uids.max()) < state.size:
        return run
    top = state.size
    for i in np.flatnonzero(run.uids >= state.size).tolist():
        uid, digest = int(run.uids[i]), int(run.digests[i])
        if digest and digest not in state.retired.get(uid, ()):
            top = max(top, uid + 1)
    state.resize(top)
    kept = run.uids < top
    return run if kept.all() else run.only(kept)


def _countable(state: ScoreState, run: Run, at: int) -> tuple[int, NDArray[np.bool_] | None]:
    """From event ``at`` on: the first event with an unannounced hotkey, and which entries count until there (None:
    all)."""
    lo = int(run.bounds[at])
    uids, digests = run.uids[lo:], run.digests[lo:]
    held = np.where(state.excluded, np.uint64(0), state.digests)
    counted = held.take(uids) == digests
    counted &= digests != 0
    if counted.all():
        return len(run.events), None
    for i in np.flatnonzero(~counted).tolist():
        if _unannounced(state, int(uids[i]), int(digests[i])):
            return int(np.searchsorted(run.bounds, lo + i, side="right")) - 1, counted
    return len(run.events), counted


def _unannounced(state: ScoreState, uid: int, digest: int) -> bool:
    """Whether an entry that is not of the hotkey in the state makes the uid start again."""
    return (
        digest != 0
        and not state.excluded[uid]
        and digest != int(state.digests[uid])
        and digest not in state.retired.get(uid, ())
    )


def _add(state: ScoreState, run: Run, entries: Indices | slice, keep: float, first: int) -> None:
    """Add entries that all count, at once.

    The n-th entries of all uids are added together: each uid sees its own entries in their order, with the same
    two roundings each as one by one, and the loop is as long as the busiest uid's list.
    """
    uids = run.uids[entries]
    if not len(uids):
        return
    counts = np.bincount(uids, minlength=state.size)
    failed = np.bincount(uids[~run.success[entries]], minlength=state.size)
    state.failures += failed
    state.successes += counts - failed
    active = np.flatnonzero(counts)
    busiest_first = active[np.argsort(-counts[active], kind="stable")]
    counts = counts[busiest_first]
    # The sort is by rank, in the smallest integers that hold it: a radix sort's passes are bytes.
    ranks = np.zeros(state.size, np.min_scalar_type(len(active)))
    ranks[busiest_first] = np.arange(len(active))
    order = np.argsort(ranks.take(uids), kind="stable")
    ends = np.cumsum(counts)
    places = order[ends - 1] if isinstance(entries, slice) else entries[order[ends - 1]]
    newest = places + entries.start if isinstance(entries, slice) else places
    state.seen[busiest_first] = np.searchsorted(run.bounds, newest, side="right") - 1 + first
    state.moving[busiest_first] = _advance(
        state.moving[busiest_first], run.contributions[entries].take(order), counts, keep
    )


def _advance(moving: Floats, contributions: Floats, counts: Indices, keep: float) -> Floats:
    """``moving`` [k] after ``counts`` [k] (falling) contributions each, which lie one list after the other.

    Lists of like length are laid side by side, a list a column: those at least half as long as the longest of
    them, so that the room taken is at most twice the number of contributions.
    """
    at = start = 0
    factor = np.array(keep)  # an array of no dimension is not converted on every call
    while at < len(moving):
        longest = int(counts[at])
        until = int(np.searchsorted(-counts, -(longest / 2), side="right"))
        long = counts[at:until]
        end = start + int(long.sum())
        lists = np.zeros((until - at, longest))
        lists[np.arange(longest) < long[:, None]] = contributions[start:end]
        layers = np.ascontiguousarray(lists.T)
        head = moving[at:until]
        shortest = int(long[-1])
        for layer in layers[:shortest]:
            np.multiply(head, factor, head)
            np.add(head, layer, head)
        widths = np.searchsorted(-long, -np.arange(shortest, longest))
        for layer, width in zip(layers[shortest:], widths.tolist(), strict=True):
            part = head[:width]
            np.multiply(part, factor, part)
            np.add(part, layer[:width], part)
        at, start = until, end
    return moving


def _add_with_resets(state: ScoreState, run: Run, at: int, keep: float, first: int) -> None:
    """Add one event entry by entry, starting uids again where it shows an unannounced hotkey."""
    for i in range(int(run.bounds[at]), int(run.bounds[at + 1])):
        uid, digest = int(run.uids[i]), int(run.digests[i])
        if _unannounced(state, uid, digest):
            state.reset(uid, digest, run.events[at].block)
        elif digest == 0 or state.excluded[uid] or digest != int(state.digests[uid]):
            continue
        state.moving[uid] = keep * state.moving[uid] + run.contributions[i]
        counter = state.successes if run.success[i] else state.failures
        counter[uid] += 1
        state.seen[uid] = first + at
