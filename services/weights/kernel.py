"""The score fold over pages of packed events, in C (kernel.c), to the bits of scores.fold.

scores.py and what it imports say what is right: the kernel stops at every event that is anything but plain (a change
of the metagraph, a uid that the state has no room for, what cannot be parsed), and that event is folded there.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coremesh import compiled
from coremesh.events import MetagraphEvent, decode_scored
from coremesh.history.page import Page
from services.weights import scores
from services.weights.rules import Rule, ShrunkZ, SoftmaxEma
from services.weights.state import RETIRED_KEPT, ScoreState

SOFTMAX, SHRUNK_Z = 0, 1
NEEDS_RETIRED = 2
MOST_ASIDE = 256
"""Events folded by scores.fold at once, where one odd event follows the other."""

_library = compiled.load(Path(__file__).parent, "_kernel", version=1, functions=("coremesh_fold",))


class _State(ctypes.Structure):
    _fields_ = (
        ("moving", ctypes.c_void_p),
        ("digests", ctypes.c_void_p),
        ("successes", ctypes.c_void_p),
        ("failures", ctypes.c_void_p),
        ("excluded", ctypes.c_void_p),
        ("reset_blocks", ctypes.c_void_p),
        ("seen", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("retired", ctypes.c_void_p),
        ("retired_rows", ctypes.c_int64),
        ("events", ctypes.c_int64),
        ("scored_ms", ctypes.c_int64),
        ("rule", ctypes.c_int64),
        ("keep", ctypes.c_double),
        ("share", ctypes.c_double),
        ("temperature", ctypes.c_double),
    )


def has_kernel(rule: Rule) -> bool:
    """Whether pages can be folded by this rule here: the kernel was compiled, and knows the rule."""
    return _library is not None and isinstance(rule, SoftmaxEma | ShrunkZ)


def fold_page(state: ScoreState, page: Page, rule: Rule) -> ScoreState:
    """Fold the events in ``page`` into ``state``, in their order, and give it back: the bits of scores.fold. Raises
    what decode_scored does for an event that is none. Only where ``has_kernel``."""
    at, aside = 0, 1
    retired: NDArray[np.uint64] | None = None
    while at < page.count:
        reached, reason = _run(state, page, at, rule, retired)
        aside = 1 if reached > at else min(2 * aside, MOST_ASIDE)
        at = reached
        if at == page.count:
            break
        if reason == NEEDS_RETIRED and retired is None:
            retired = _table(state)
            continue
        until = min(at + aside, page.count)
        events = [entry.event for entry in page.entries(decode_scored, at, until)]
        state = scores.fold(state, events, rule)
        if any(isinstance(event, MetagraphEvent) for event in events):
            retired = None
        at = until
    return state


def _run(
    state: ScoreState, page: Page, at: int, rule: Rule, retired: NDArray[np.uint64] | None
) -> tuple[int, int]:
    """Fold until the first event that is not plain: its number, and why."""
    library: Any = _library
    softmax = isinstance(rule, SoftmaxEma)
    given = _State(
        moving=state.moving.ctypes.data,
        digests=state.digests.ctypes.data,
        successes=state.successes.ctypes.data,
        failures=state.failures.ctypes.data,
        excluded=state.excluded.ctypes.data,
        reset_blocks=state.reset_blocks.ctypes.data,
        seen=state.seen.ctypes.data,
        size=state.size,
        retired=None if retired is None else retired.ctypes.data,
        retired_rows=0 if retired is None else len(retired),
        events=state.events,
        scored_ms=state.scored_ms,
        rule=SOFTMAX if softmax else SHRUNK_Z,
        keep=rule.keep,
        share=1.0 - rule.alpha if softmax else 0.0,
        temperature=rule.temperature if softmax else 1.0,
    )
    reason = ctypes.c_int64()
    reached: int = library.coremesh_fold(
        ctypes.byref(given),
        ctypes.c_void_p(page.data.ctypes.data),
        ctypes.c_void_p(page.spans.ctypes.data),
        ctypes.c_int64(at),
        ctypes.c_int64(page.count),
        ctypes.byref(reason),
    )
    state.events, state.scored_ms = given.events, given.scored_ms
    return reached, reason.value


def _table(state: ScoreState) -> NDArray[np.uint64]:
    """Digests of former hotkeys, uint64 [m, RETIRED_KEPT] for the uids below m; 0 where there is none."""
    table = np.zeros((max(state.retired, default=-1) + 1, RETIRED_KEPT), np.uint64)
    for uid, digests in state.retired.items():
        table[uid, : len(digests)] = digests
    return table if len(table) else np.zeros((1, RETIRED_KEPT), np.uint64)
