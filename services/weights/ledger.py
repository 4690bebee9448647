"""Submissions as records: what has become of each, and what is still open."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from coremesh.history import History, Lease, Submission
from coremesh.types import StreamId, stream_key
from services.weights.metrics import SUBMISSIONS
from services.weights.scores import counts

LOOKED_BACK, FAR_BACK = 500, 4000
"""Records read when taking over, and where none of them says what the chain took last: a gate that holds for long may
write a record on every block."""
PAGE = 1000

ON_CHAIN = ("landed", "committed", "revealed", "superseded")


@dataclass(slots=True)
class Ledger:
    """What the records say. Written only with a lease, so that a stale leader's attempt is refused."""

    history: History
    attempt: Submission | None = None
    """Handed to the chain, outcome unknown."""
    attempt_events: int = 0
    """Scored events up to the attempt."""
    sealed: list[Submission] = field(default_factory=list[Submission])
    """Committed and not yet revealed, oldest first."""
    newest: Submission | None = None
    """The last one that the chain took."""
    events: int = 0
    """Scored events up to the newest."""

    @property
    def previous(self) -> Mapping[int, int] | None:
        """uid to u16 of the newest, None when there is none."""
        return dict(zip(self.newest.uids, self.newest.values, strict=True)) if self.newest else None

    async def record(self, submission: Submission, lease: Lease) -> Submission:
        """Write a record. Raises LeaseLost, HistoryUnavailable."""
        stamped = msgspec.structs.replace(submission, time_ms=time.time_ns() // 1_000_000)
        await self.history.submit(stamped, lease)
        SUBMISSIONS.labels(stamped.result).inc()
        return stamped

    async def take_over(self, last_id: StreamId, events: int) -> None:
        """Read what earlier leaders left. ``events``: scored events up to ``last_id``. Raises HistoryUnavailable."""
        records = await self._records()
        self.sealed = [r for r in records if r.result == "committed"]
        sent = [r for r in records if r.result == "sent"]
        self.attempt = sent[-1] if sent else None
        taken = [r for r in records if r.result in ON_CHAIN]
        self.newest = taken[-1] if taken else None
        self.events = await self._events_up_to(self.newest, last_id, events)
        self.attempt_events = await self._events_up_to(self.attempt, last_id, events)

    async def _records(self) -> list[Submission]:
        """The newest record of every attempt, oldest attempt first, back to what the chain took last."""
        entries = await self.history.submissions(LOOKED_BACK)
        if len(entries) == LOOKED_BACK and not any(one.submission.result in ON_CHAIN for one in entries):
            entries = await self.history.submissions(FAR_BACK)
        last: dict[str, Submission] = {}
        for entry in entries:
            last.setdefault(entry.submission.id, entry.submission)
        return list(reversed(last.values()))

    async def _events_up_to(self, submission: Submission | None, last_id: StreamId, events: int) -> int:
        if submission is None:
            return 0
        return max(0, events - await scored_between(self.history, StreamId(submission.last_id), last_id))


async def scored_between(history: History, after: StreamId, until: StreamId) -> int:
    """Scored events after one place and up to another, among those that are kept."""
    count, at = 0, after
    while stream_key(at) < stream_key(until):
        entries = await history.read(at, PAGE)
        if not entries:
            break
        at = entries[-1].stream_id
        count += sum(
            counts(entry.event) for entry in entries if stream_key(entry.stream_id) <= stream_key(until)
        )
    return count
