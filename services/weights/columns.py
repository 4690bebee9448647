"""Scored events as flat columns, and what each of their entries adds to a score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.weights.exact import Floats, Indices
from services.weights.rules import Rule
from services.weights.state import Digests

MOST_EVENTS = 512
"""Events of one run: columns of more no longer stay in the processor's cache."""


class Scored(Protocol):
    """What the fold reads of a forward event."""

    @property
    def time_ms(self) -> int:
        """See ForwardEvent."""
        ...

    @property
    def block(self) -> int:
        """See ForwardEvent."""
        ...

    @property
    def uids_(self) -> bytes:
        """See ForwardEvent."""
        ...

    @property
    def hotkeys_(self) -> bytes:
        """See ForwardEvent."""
        ...

    @property
    def rewards_(self) -> bytes:
        """See ForwardEvent."""
        ...


@dataclass(slots=True)
class Run:
    """Scored events between two metagraph events, in their order; columns are [m], one entry a queried uid."""

    uids: Indices
    digests: Digests
    success: NDArray[np.bool_]
    contributions: Floats
    bounds: Indices
    """[n + 1]: where the entries of each event begin."""
    events: Sequence[Scored]

    def only(self, kept: NDArray[np.bool_]) -> Run:
        """The entries in ``kept`` [m], of the same events."""
        return Run(
            uids=self.uids[kept],
            digests=self.digests[kept],
            success=self.success[kept],
            contributions=self.contributions[kept],
            bounds=np.concatenate(([0], np.cumsum(kept)))[self.bounds],
            events=self.events,
        )


def columns(events: Sequence[Scored], rule: Rule) -> Iterator[Run]:
    """``events`` flagged as scored, as runs. What is broken, or has no finite reward, is left out."""
    for at in range(0, len(events), MOST_EVENTS):
        run = _run(events[at : at + MOST_EVENTS], rule)
        if run is not None:
            yield run


def _run(events: Sequence[Scored], rule: Rule) -> Run | None:
    packed = [event.rewards_ for event in events]
    uids, digests = [event.uids_ for event in events], [event.hotkeys_ for event in events]
    sizes = np.fromiter(map(len, packed), np.int64, len(events))
    # A broken event must not stop the fold for ever.
    sound = (
        (sizes % 4 == 0)
        & (np.fromiter(map(len, uids), np.int64, len(events)) * 2 == sizes)
        & (np.fromiter(map(len, digests), np.int64, len(events)) == 2 * sizes)
    )
    if not sound.all():
        return _run([event for event, ok in zip(events, sound.tolist(), strict=True) if ok], rule)
    rewards = np.frombuffer(b"".join(packed), "<f4")
    success = np.isfinite(rewards)
    bounds = np.zeros(len(events) + 1, np.int64)
    np.cumsum(sizes // 4, out=bounds[1:])
    found = np.concatenate(([0], np.cumsum(success, dtype=np.int32)))[bounds]
    good = found[1:] > found[:-1]
    if not good.all():
        return _run([event for event, ok in zip(events, good.tolist(), strict=True) if ok], rule)
    if not len(events):
        return None
    return Run(
        uids=np.frombuffer(b"".join(uids), "<u2").astype(np.int64),
        digests=np.frombuffer(b"".join(digests), "<u8"),
        success=success,
        contributions=contributions(rule, rewards, success, bounds),
        bounds=bounds,
        events=events,
    )


def contributions(
    rule: Rule, rewards: NDArray[np.float32], success: NDArray[np.bool_], bounds: Indices
) -> Floats:
    """What each entry adds, float64 [m]; ``rewards`` and ``success`` are [m], events begin at ``bounds``."""
    lengths = np.diff(bounds)
    if lengths.min() == lengths.max():
        return _alike(rule, rewards, success, int(lengths[0]))
    result = np.empty(len(rewards))
    for length in np.unique(lengths).tolist():
        starts = bounds[:-1][lengths == length]
        at = (starts[:, None] + np.arange(length)).ravel()
        result[at] = _alike(rule, rewards[at], success[at], length)
    return result


def _alike(rule: Rule, rewards: NDArray[np.float32], success: NDArray[np.bool_], length: int) -> Floats:
    """The contributions of events of one length, an event a column meanwhile, so that what is added up from left
    to right in each is added up in all at once."""
    with np.errstate(invalid="ignore"):
        by_event = np.ascontiguousarray(rewards.reshape(-1, length).T, np.float64)
    found = rule.contributions(by_event, np.ascontiguousarray(success.reshape(-1, length).T))
    return np.ascontiguousarray(found.T).ravel()
