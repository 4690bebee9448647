"""What a recomputation needs of a history: the store itself, or an archive of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Protocol

from coremesh.history import Checkpoint, Entry, SubmissionEntry
from coremesh.types import StreamId, stream_key

PAGE = 1000


class Recorded(Protocol):
    """A part of coremesh.history.History; see there."""

    async def read(self, after: StreamId, count: int, block: timedelta | None = None) -> list[Entry]:
        """See History.read."""
        ...

    async def last_id(self) -> StreamId:
        """See History.last_id."""
        ...

    async def length(self) -> int:
        """See History.length."""
        ...

    async def trimmed(self) -> StreamId:
        """See History.trimmed."""
        ...

    async def load(self, fold: str) -> Checkpoint | None:
        """See History.load."""
        ...

    async def resolve(self, digests: list[int]) -> dict[int, str]:
        """See History.resolve."""
        ...

    async def submissions(self, count: int) -> list[SubmissionEntry]:
        """See History.submissions."""
        ...


async def pages(history: Recorded, after: StreamId, until: StreamId) -> AsyncIterator[list[Entry]]:
    """All entries after one place and up to another, a page at a time. Raises HistoryUnavailable."""
    at = after
    while stream_key(at) < stream_key(until):
        page = await history.read(at, PAGE)
        if not page:
            return
        at = page[-1].stream_id
        yield [entry for entry in page if stream_key(entry.stream_id) <= stream_key(until)]
