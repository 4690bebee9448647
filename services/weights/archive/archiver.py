"""Writing the history to Parquet, every row once.

Before a part is written, its range is saved in the archive's checkpoint; after it is there, the checkpoint moves on.
Whoever takes over in between writes the same range to the same names again, so that a crash neither loses nor doubles
a row. Trimming waits for the checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import structlog

from coremesh.aside import in_thread
from coremesh.events import ForwardEvent, MetagraphEvent
from coremesh.history import Checkpoint, Entry, History, Lease, SubmissionEntry
from coremesh.leading import TTL, Leading
from coremesh.settings import ArchiveSettings
from coremesh.types import ORIGIN, StreamId, stream_key
from services.weights.archive.files import Files
from services.weights.archive.metrics import FAILURES, GAPS, LAG_SECONDS, ROWS, age_s
from services.weights.archive.reader import ParquetHistory
from services.weights.archive.rows import events_table, metagraph_table, submissions_table
from services.weights.archive.schema import EVENTS, FORMAT, METAGRAPH, SUBMISSIONS

log = structlog.get_logger(__name__)

NAME = ROLE = "archive"
PAGE = 1000
WAIT = timedelta(seconds=1)
MOST_SUBMISSIONS = 20_000
LONGEST_BACKOFF_S = 60.0

T = TypeVar("T")
R = TypeVar("R", Entry, SubmissionEntry)


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """A part that is being written: events and submissions after one place and up to another."""

    after: StreamId
    last: StreamId
    submissions_after: StreamId
    submissions_last: StreamId
    texts: bool


class Place(msgspec.Struct, frozen=True, array_like=True):
    """The archive's checkpoint beside its last event."""

    submissions: StreamId = ORIGIN
    intent: Intent | None = None


@dataclass(slots=True)
class Batch:
    """What a part is made of."""

    entries: list[Entry] = field(default_factory=list[Entry])
    submissions: list[SubmissionEntry] = field(default_factory=list[SubmissionEntry])
    completions: dict[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    names: dict[int, str] = field(default_factory=dict[int, str])


_decoder = msgspec.msgpack.Decoder(Place)


class Archiver:
    """Follows the history while it leads. Nobody waits for it: what it cannot write, it tries again."""

    def __init__(
        self,
        history: History,
        files: Files,
        settings: ArchiveSettings,
        *,
        netuid: int,
        holder: str,
        backoff_s: float = 1.0,
        ttl: timedelta = TTL,
        wait: timedelta = WAIT,
    ) -> None:
        self._history = history
        self._files = files
        self._settings = settings
        self._netuid = netuid
        self._leading = Leading(history, role=ROLE, holder=holder, ttl=ttl)
        self._backoff_s = backoff_s
        self._wait = wait
        self._format = f"archive/1:{files.root}"
        self._at = self._saved_at = ORIGIN
        self._place = Place()
        self._looked_s = 0.0

    async def run(self) -> None:
        """Archive while leading, for ever. Ends when cancelled."""
        await self._leading.run(self._work)

    async def _work(self, lease: Lease) -> None:
        checkpoint = await self._history.load(NAME)
        self._saved_at = checkpoint.last_id if checkpoint else ORIGIN
        self._at, self._place = ORIGIN, Place()
        if checkpoint is not None and checkpoint.format == self._format:
            self._at, self._place = checkpoint.last_id, _decoder.decode(checkpoint.state)
        else:
            self._at, self._place = await self._found_there()
            log.info("archiving to another place", to=self._files.root, at=self._at)
        await self._look_for_gap()
        if self._place.intent is not None:
            await self._finish(lease, self._place.intent, await self._again(self._place.intent))
        self._looked_s = time.monotonic()
        while True:
            batch = await self._gather()
            if not batch.entries and not batch.submissions:
                continue
            intent = Intent(
                after=self._at,
                last=batch.entries[-1].stream_id if batch.entries else self._at,
                submissions_after=self._place.submissions,
                submissions_last=batch.submissions[-1].stream_id
                if batch.submissions
                else self._place.submissions,
                texts=self._settings.texts,
            )
            await self._save(lease, self._at, Place(self._place.submissions, intent))
            await self._finish(lease, intent, batch)

    async def _found_there(self) -> tuple[StreamId, Place]:
        """Where an archive that is there already ends: it was moved, or the checkpoint is of another one."""
        found = await self._insist(self._end, "archive not read")
        newest = await self._history.last_id()
        if found is None or stream_key(found[0]) > stream_key(newest):
            return ORIGIN, Place()
        return found[0], Place(submissions=found[1])

    def _end(self) -> tuple[StreamId, StreamId] | None:
        if not any(self._files.paths(table) for table in (EVENTS, METAGRAPH)):
            return None
        return ParquetHistory.read_end(self._files, self._netuid)

    async def _look_for_gap(self) -> None:
        trimmed = await self._history.trimmed()
        if stream_key(self._at) >= stream_key(trimmed):
            return
        if self._at != ORIGIN:
            GAPS.labels(NAME).inc()
            log.error("events were trimmed before they were archived", at=self._at, trimmed=trimmed)
        self._at = trimmed

    async def _save(self, lease: Lease, at: StreamId, place: Place) -> None:
        draft = Checkpoint(
            last_id=at,
            state=msgspec.msgpack.encode(place),
            format=self._format,
            time_ms=time.time_ns() // 1_000_000,
        )
        await self._history.save(NAME, draft, lease, self._saved_at)
        self._at = self._saved_at = at
        self._place = place

    async def _gather(self) -> Batch:
        """The next part: full, or as old as it may become."""
        batch, at = Batch(), self._at
        while True:
            room = min(PAGE, self._settings.part_rows - len(batch.entries))
            page = await self._history.read(at, room, self._wait)
            batch.entries += page
            if page:
                at = page[-1].stream_id
                await self._add_texts(batch, page)
            age = age_s(batch.entries[0].stream_id) if batch.entries else 0.0
            LAG_SECONDS.labels(NAME).set(age)
            full = len(batch.entries) >= self._settings.part_rows
            waited = time.monotonic() - self._looked_s >= self._settings.part_s
            if full or (len(page) < room and (age >= self._settings.part_s or waited)):
                self._looked_s = time.monotonic()
                batch.submissions = await self._submissions(self._place.submissions, None)
                batch.names = await self._names(batch.entries)
                return batch

    async def _again(self, intent: Intent) -> Batch:
        """What a part was begun with, read again."""
        batch, at = Batch(), intent.after
        while stream_key(at) < stream_key(intent.last):
            page = await self._history.read(at, PAGE)
            page = [entry for entry in page if stream_key(entry.stream_id) <= stream_key(intent.last)]
            if not page:
                break
            at = page[-1].stream_id
            batch.entries += page
            if intent.texts:
                await self._add_texts(batch, page)
        batch.submissions = await self._submissions(intent.submissions_after, intent.submissions_last)
        batch.names = await self._names(batch.entries)
        return batch

    async def _add_texts(self, batch: Batch, page: list[Entry]) -> None:
        # At once: texts are kept for fewer events than events are.
        if not self._settings.texts:
            return
        for entry in page:
            if isinstance(entry.event, ForwardEvent):
                found = await self._history.transcript(entry.event.id)
                if found is not None:
                    batch.completions[entry.event.id] = found.completions

    async def _submissions(self, after: StreamId, until: StreamId | None) -> list[SubmissionEntry]:
        count = PAGE
        while True:
            found = await self._history.submissions(count)
            reached = len(found) < count or stream_key(found[-1].stream_id) <= stream_key(after)
            if reached or count >= MOST_SUBMISSIONS:
                break
            count = MOST_SUBMISSIONS
        return [
            one
            for one in reversed(found)
            if stream_key(one.stream_id) > stream_key(after)
            and (until is None or stream_key(one.stream_id) <= stream_key(until))
        ]

    async def _names(self, entries: list[Entry]) -> dict[int, str]:
        digests = {
            digest
            for entry in entries
            if isinstance(entry.event, ForwardEvent) and len(entry.event.hotkeys_) % 8 == 0
            for digest in entry.event.hotkeys.tolist()
        }
        return await self._history.resolve(sorted(digests - {0}))

    async def _finish(self, lease: Lease, intent: Intent, batch: Batch) -> None:
        """Write a part, however often it takes, and move on."""
        rows = await self._insist(
            lambda: write(self._files, parts(intent, batch, self._netuid)),
            "part not archived",
            batch.entries[:1],
        )
        await self._save(lease, intent.last, Place(intent.submissions_last))
        LAG_SECONDS.labels(NAME).set(0.0)
        for table, count in rows.items():
            ROWS.labels(table).inc(count)

    async def _insist(self, work: Callable[[], T], failing: str, oldest: Sequence[Entry] = ()) -> T:
        """What blocking work gives, however often it takes."""
        backoff = self._backoff_s
        working = _begin(work)
        while True:
            try:
                # A storage that never answers keeps one thread, not a new one for every try.
                return await asyncio.wait_for(asyncio.shield(working), self._settings.timeout_s)
            except Exception as error:
                FAILURES.labels(NAME).inc()
                said = str(error) or f"no answer in {self._settings.timeout_s:g} s"
                log.error(failing, to=self._files.root, reason=said[:500])
            await asyncio.sleep(backoff)
            backoff = min(LONGEST_BACKOFF_S, backoff * 2)
            LAG_SECONDS.labels(NAME).set(age_s(oldest[0].stream_id) if oldest else 0.0)
            if working.done():
                working = _begin(work)


def _begin(work: Callable[[], T]) -> asyncio.Task[T]:
    task = asyncio.create_task(in_thread(work, name="archive"))
    # Whoever waits for it may be gone before it fails.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


@dataclass(frozen=True, slots=True)
class Part:
    """One file to write."""

    path: str
    table: pa.Table
    about: dict[str, Any]


def parts(intent: Intent, batch: Batch, netuid: int) -> list[Part]:
    """The files of one range: a file a table and day. The same range gives the same names."""
    texts = batch.completions if intent.texts else None
    made: list[Part] = []
    about: dict[str, Any] = {"format": FORMAT, "netuid": netuid, "texts": intent.texts}
    events = about | {"after": intent.after, "last": intent.last, "batch_rows": len(batch.entries)}
    for day, entries in _by_day(batch.entries).items():
        forwards = [(e.stream_id, e.event) for e in entries if isinstance(e.event, ForwardEvent)]
        news = [(e.stream_id, e.event) for e in entries if isinstance(e.event, MetagraphEvent)]
        if forwards:
            made.append(_part(EVENTS, day, forwards, events_table(forwards, batch.names, texts), events))
        if news:
            made.append(_part(METAGRAPH, day, news, metagraph_table(news), events))
    kept = about | {
        "after": intent.submissions_after,
        "last": intent.submissions_last,
        "batch_rows": len(batch.submissions),
    }
    for day, records in _by_day(batch.submissions).items():
        placed = [(record.stream_id, record) for record in records]
        made.append(_part(SUBMISSIONS, day, placed, submissions_table(records), kept))
    return made


def _part(
    name: str, day: str, rows: Sequence[tuple[StreamId, object]], table: pa.Table, about: dict[str, Any]
) -> Part:
    path = f"{name}/day={day}/part-{rows[0][0]}-{rows[-1][0]}.parquet"
    return Part(path, table, about | {"table": name, "rows": table.num_rows})


def _by_day(rows: Sequence[R]) -> dict[str, list[R]]:
    """By the day on which the history took them, UTC."""
    days: dict[str, list[R]] = {}
    for row in rows:
        at = datetime.fromtimestamp(stream_key(row.stream_id)[0] / 1000, UTC)
        days.setdefault(at.strftime("%Y-%m-%d"), []).append(row)
    return days


def write(files: Files, made: Sequence[Part]) -> dict[str, int]:
    """Write files and give the rows a table. Blocking. Raises ArchiveUnavailable."""
    rows: dict[str, int] = {}
    for part in made:
        files.write(part.path, part.table, part.about)
        name = str(part.about["table"])
        rows[name] = rows.get(name, 0) + part.table.num_rows
    return rows
