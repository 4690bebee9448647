"""An archive read as a history: for replays, explanations and backtests without Redis, or beyond what it keeps."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from coremesh.history import Checkpoint, Entry, SubmissionEntry
from coremesh.types import ORIGIN, StreamId, stream_key
from services.weights.archive.files import ArchiveUnavailable, Files
from services.weights.archive.rows import (
    entries_of_events,
    entries_of_metagraph,
    entries_of_submissions,
    names_of,
)
from services.weights.archive.schema import EVENTS, FORMAT, METAGRAPH, SUBMISSIONS
from services.weights.recorded import Recorded


@dataclass(slots=True)
class _Range:
    """The files of one range of events."""

    after: StreamId
    last: StreamId
    expected: int
    rows: int = 0
    paths: list[str] = field(default_factory=list[str])


class ParquetHistory:
    """A Recorded over an archive's files. Use ``open``."""

    def __init__(self, files: Files, ranges: list[_Range], submissions: list[str]) -> None:
        self._files = files
        self._submission_paths = submissions
        self._names: dict[int, str] = {}
        self._loaded: tuple[_Range, list[Entry], list[tuple[int, int]]] | None = None
        self.gap: str | None = None
        """What is missing inside the archive. What comes before it is not read."""
        whole = 0
        for n, one in enumerate(ranges):
            if n and ranges[n - 1].last != one.after:
                whole = n
                self.gap = f"events between {ranges[n - 1].last} and {one.after} are not in {files.root}"
            if one.rows != one.expected:
                whole = n + 1
                self.gap = f"{one.expected - one.rows} events up to {one.last} are not in {files.root}"
        self._ranges = ranges[whole:]
        self._end = ranges[-1].last if ranges else ORIGIN
        self._start = self._ranges[0].after if self._ranges else self._end

    @classmethod
    async def open(cls, files: Files, netuid: int) -> ParquetHistory:
        """The archive as it is now. Raises ArchiveUnavailable when it cannot be read or is of another subnet."""
        return await asyncio.to_thread(cls._open, files, netuid)

    @classmethod
    def read_end(cls, files: Files, netuid: int) -> tuple[StreamId, StreamId]:
        """The last event and the last submission in an archive. Blocking. Raises ArchiveUnavailable."""
        found = cls._open(files, netuid)
        newest = found._submissions(1)
        return found._end, newest[0].stream_id if newest else ORIGIN

    @classmethod
    def _open(cls, files: Files, netuid: int) -> ParquetHistory:
        ranges: dict[tuple[str, str], _Range] = {}
        for table in (EVENTS, METAGRAPH):
            for path in files.paths(table):
                about = _about(files, path, netuid)
                after, last = StreamId(about["after"]), StreamId(about["last"])
                found = ranges.setdefault((after, last), _Range(after, last, int(about["batch_rows"])))
                found.rows += int(about["rows"])
                found.paths.append(path)
        ordered = sorted(ranges.values(), key=lambda one: stream_key(one.last))
        submissions = files.paths(SUBMISSIONS)
        if not ordered and not submissions:
            raise ArchiveUnavailable(
                f"there is no archive in {files.root}", remedy="Name where archive.to is."
            )
        return cls(files, ordered, submissions)

    async def read(self, after: StreamId, count: int, block: timedelta | None = None) -> list[Entry]:
        """See History.read; never waits."""
        for one in self._ranges:
            if stream_key(one.last) <= stream_key(after):
                continue
            if self._loaded is None or self._loaded[0] is not one:
                entries = await asyncio.to_thread(self._load, one)
                self._loaded = one, entries, [stream_key(entry.stream_id) for entry in entries]
            _, entries, keys = self._loaded
            first = bisect_right(keys, stream_key(after))
            if first < len(entries):
                return entries[first : first + count]
        return []

    def _load(self, wanted: _Range) -> list[Entry]:
        entries: list[Entry] = []
        for path in wanted.paths:
            table = self._files.read(path)
            if path.startswith(METAGRAPH):
                entries += entries_of_metagraph(table)
            else:
                entries += entries_of_events(table)
                self._names |= names_of(table)
        entries.sort(key=lambda entry: stream_key(entry.stream_id))
        return entries

    async def last_id(self) -> StreamId:
        """See History.last_id."""
        return self._end

    async def length(self) -> int:
        """See History.length."""
        return sum(one.rows for one in self._ranges)

    async def trimmed(self) -> StreamId:
        """The place from which on nothing is missing."""
        return self._start

    async def load(self, fold: str) -> Checkpoint | None:
        """An archive holds no checkpoints."""
        return None

    async def resolve(self, digests: list[int]) -> dict[int, str]:
        """Hotkeys of the events read so far."""
        return {digest: self._names[digest] for digest in digests if digest in self._names}

    async def submissions(self, count: int) -> list[SubmissionEntry]:
        """See History.submissions."""
        return await asyncio.to_thread(self._submissions, count)

    def _submissions(self, count: int) -> list[SubmissionEntry]:
        found: list[SubmissionEntry] = []
        for path in self._submission_paths:
            found += entries_of_submissions(self._files.read(path))
        found.sort(key=lambda one: stream_key(one.stream_id), reverse=True)
        return found[:count]


def _about(files: Files, path: str, netuid: int) -> dict[str, Any]:
    about = files.about(path)
    if about.get("format") != FORMAT:
        raise ArchiveUnavailable(
            f"{files.root}/{path} is not a file of {FORMAT}",
            remedy="Move files of others out of the archive.",
        )
    if about["netuid"] != netuid:
        raise ArchiveUnavailable(
            f"{files.root} is of subnet {about['netuid']}, not {netuid}", remedy="Set --chain.netuid."
        )
    return about


class Joined:
    """A Recorded of an archive and, from its end on, of the store that it was written from."""

    def __init__(self, archive: ParquetHistory, store: Recorded) -> None:
        self._archive = archive
        self._store = store

    async def _whole(self) -> bool:
        """Whether the store begins before the archive ends."""
        return stream_key(await self._store.trimmed()) <= stream_key(await self._archive.last_id())

    async def read(self, after: StreamId, count: int, block: timedelta | None = None) -> list[Entry]:
        """See History.read."""
        if stream_key(after) < stream_key(await self._archive.last_id()):
            found = await self._archive.read(after, count)
            if found:
                return found
        return await self._store.read(after, count, block)

    async def last_id(self) -> StreamId:
        """See History.last_id."""
        return max(await self._store.last_id(), await self._archive.last_id(), key=stream_key)

    async def length(self) -> int:
        """At least so many events."""
        return max(await self._archive.length(), await self._store.length())

    async def trimmed(self) -> StreamId:
        """See History.trimmed."""
        return await (self._archive if await self._whole() else self._store).trimmed()

    async def load(self, fold: str) -> Checkpoint | None:
        """See History.load."""
        return await self._store.load(fold)

    async def resolve(self, digests: list[int]) -> dict[int, str]:
        """See History.resolve."""
        return await self._archive.resolve(digests) | await self._store.resolve(digests)

    async def submissions(self, count: int) -> list[SubmissionEntry]:
        """See History.submissions: those of both, each once."""
        both = {one.stream_id: one for one in await self._archive.submissions(count)}
        both |= {one.stream_id: one for one in await self._store.submissions(count)}
        return sorted(both.values(), key=lambda one: stream_key(one.stream_id), reverse=True)[:count]
