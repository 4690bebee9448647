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

from collections.abc import Iterable

import numpy as np

from coremesh.events import Event, Flag, ForwardEvent, MetagraphEvent, ScoredEvent
from coremesh.types import hotkey_digest
from services.weights.batch import add
from services.weights.columns import columns
from services.weights.rules import Rule
from services.weights.state import LAYOUT, ScoreState, dump, load

__all__ = ["LAYOUT", "ScoreState", "counts", "dump", "fold", "load"]

SCORED = int(Flag.SCORED)


def fold(state: ScoreState, events: Iterable[Event | ScoredEvent], rule: Rule) -> ScoreState:
    """Fold ``events`` into ``state``, in their order, and give it back. Any split into calls gives the same bits."""
    run: list[ForwardEvent | ScoredEvent] = []
    for event in events:
        if isinstance(event, MetagraphEvent):
            _fold_run(state, run, rule)
            run = []
            _fold_metagraph(state, event)
        elif event.flags & SCORED:
            run.append(event)
    _fold_run(state, run, rule)
    return state


def _fold_run(state: ScoreState, events: list[ForwardEvent | ScoredEvent], rule: Rule) -> None:
    for run in columns(events, rule):
        add(state, run, rule.keep)


def counts(event: Event) -> bool:
    """Whether an event is one of the scored."""
    return (
        isinstance(event, ForwardEvent)
        and event.scored
        and len(event.rewards_) % 4 == 0
        and bool(np.isfinite(event.rewards).any())
        and len(event.uids_) * 2 == len(event.rewards_)
        and len(event.hotkeys_) == 2 * len(event.rewards_)
    )


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
