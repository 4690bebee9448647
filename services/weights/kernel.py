"""The score fold over pages of packed events, in C (kernel.c), to the bits of scores.fold.

scores.py and what it imports say what is right: the kernel stops at every event that is anything but plain (a change
of the metagraph, a uid that the state has no room for, what cannot be parsed), and that event is folded there.
"""

from __future__ import annotations

import ctypes
from operator import is_not
from pathlib import Path
from typing import Any, cast

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

_library = compiled.load(
    Path(__file__).parent, "_kernel", version=3, functions=("coremesh_fold", "coremesh_take")
)


class _State(ctypes.Structure):
    _fields_ = (
        ("moving", ctypes.c_void_p),
        ("digests", ctypes.c_void_p),
        ("successes", ctypes.c_void_p),
        ("failures", ctypes.c_void_p),
        ("excluded", ctypes.c_void_p),
        ("reset_blocks", ctypes.c_void_p),
        ("seen", ctypes.c_void_p),
        ("counted", ctypes.c_void_p),
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
    what decode_scored does for an event that is none. Only where ``has_kernel``.

    From then on the kernel takes events as they come into the page, until one that is not plain: ``state`` has them all
    after the next call, which must be for the same state and rule.
    """
    retired: NDArray[np.uint64] | None = None
    if (taking := page.taker) is not None and taking is state.bound:
        assert isinstance(taking, _Bound)
        taking.settle(state)
        retired = taking.retired
        if page.first == page.count:
            return state
    at, aside = page.first, 1
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
    page.taker = _told(state, rule, retired)
    return state


class _Bound:
    """What the kernel is told of a state, made once for its arrays: an address takes a microsecond to find."""

    def __init__(self, state: ScoreState) -> None:
        self.arrays = _arrays(state)
        addresses = [array.ctypes.data for array in self.arrays]
        self.counted = np.zeros_like(state.digests)
        self.given = _State(*addresses, self.counted.ctypes.data, state.size)
        self.reference = ctypes.byref(self.given)
        self.reason = ctypes.c_int64()
        self.retired: NDArray[np.uint64] | None = None
        self.function = ctypes.cast(cast(Any, _library).coremesh_take, ctypes.c_void_p).value or 0
        """See page.Taker."""
        self.context = ctypes.addressof(self.given)
        """See page.Taker."""

    def settle(self, state: ScoreState) -> None:
        """Note in the state what the kernel counted beside its arrays."""
        state.events, state.scored_ms = self.given.events, self.given.scored_ms


def _arrays(state: ScoreState) -> tuple[NDArray[Any], ...]:
    return (
        state.moving,
        state.digests,
        state.successes,
        state.failures,
        state.excluded,
        state.reset_blocks,
        state.seen,
    )


def _bound(state: ScoreState) -> _Bound:
    bound = state.bound
    if not isinstance(bound, _Bound) or any(map(is_not, bound.arrays, _arrays(state))):
        state.bound = bound = _Bound(state)
    return bound


def _told(state: ScoreState, rule: Rule, retired: NDArray[np.uint64] | None) -> _Bound:
    """The state as the kernel is to know it now."""
    bound = _bound(state)
    given = bound.given
    np.multiply(state.digests, ~state.excluded, out=bound.counted)
    bound.retired = retired
    given.retired = None if retired is None else retired.ctypes.data
    given.retired_rows = 0 if retired is None else len(retired)
    given.events, given.scored_ms = state.events, state.scored_ms
    given.keep = rule.keep
    if isinstance(rule, SoftmaxEma):
        given.rule, given.share, given.temperature = SOFTMAX, 1.0 - rule.alpha, rule.temperature
    else:
        given.rule, given.share, given.temperature = SHRUNK_Z, 0.0, 1.0
    return bound


def _run(
    state: ScoreState, page: Page, at: int, rule: Rule, retired: NDArray[np.uint64] | None
) -> tuple[int, int]:
    """Fold until the first event that is not plain: its number, and why."""
    library: Any = _library
    bound = _told(state, rule, retired)
    reason = bound.reason
    reached: int = library.coremesh_fold(
        bound.reference,
        ctypes.c_void_p(page.address),
        ctypes.c_void_p(page.spans_address),
        ctypes.c_int64(at),
        ctypes.c_int64(page.count),
        ctypes.byref(reason),
    )
    bound.settle(state)
    return reached, reason.value


def _table(state: ScoreState) -> NDArray[np.uint64]:
    """Digests of former hotkeys, uint64 [m, RETIRED_KEPT] for the uids below m; 0 where there is none."""
    table = np.zeros((max(state.retired, default=-1) + 1, RETIRED_KEPT), np.uint64)
    for uid, digests in state.retired.items():
        table[uid, : len(digests)] = digests
    return table if len(table) else np.zeros((1, RETIRED_KEPT), np.uint64)
