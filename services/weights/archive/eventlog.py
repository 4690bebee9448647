"""The first validator's event log: a line of JSON for every forward, in a file that is rotated by size.

The file is its own place: whoever begins reads the last whole line, cuts off a torn one, and goes on behind it, so that
a crash neither loses nor doubles a line. Only one instance writes at a time, each to its own disk.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from coremesh.aside import in_thread
from coremesh.events import ForwardEvent
from coremesh.history import Checkpoint, Entry, History, Lease
from coremesh.leading import TTL, Leading
from coremesh.settings import ArchiveSettings
from coremesh.types import ORIGIN, StreamId, stream_key
from services.weights.archive.metrics import FAILURES, GAPS, LAG_SECONDS, ROWS, age_s

log = structlog.get_logger(__name__)

NAME = ROLE = "eventlog"
FORMAT = "eventlog/1"
FILE = "events.log"
PAGE = 200
WAIT = timedelta(seconds=1)
LONGEST_BACKOFF_S = 60.0
TAIL_BYTES = 1 << 20


class RotatingLog:
    """Lines in ``folder``/events.log, before that events.log.1 and so on. Blocking; raises OSError."""

    def __init__(self, folder: Path, most_bytes: int, files: int) -> None:
        self.path = folder / FILE
        self._most = most_bytes
        self._files = files

    def last_line(self) -> bytes | None:
        """The newest whole line. A torn one at the end is cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.path, *(self._rotated(n) for n in range(1, self._files + 1))):
            line = _last_line(path)
            if line is not None:
                return line
        return None

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines, each with its newline, to the disk. A file that would grow over the bound is rotated first."""
        handle = self._open()
        try:
            size = os.fstat(handle).st_size
            for line in lines:
                if size and size + len(line) > self._most:
                    os.fsync(handle)
                    os.close(handle)
                    handle = -1  # where it cannot be rotated: the number is another's by now
                    self._rotate()
                    handle = self._open()
                    size = 0
                _write(handle, line)
                size += len(line)
            os.fsync(handle)
        finally:
            if handle >= 0:
                os.close(handle)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _rotated(self, n: int) -> Path:
        return self.path.with_name(f"{FILE}.{n}")

    def _rotate(self) -> None:
        for n in range(self._files - 1, 0, -1):
            if self._rotated(n).exists():
                os.replace(self._rotated(n), self._rotated(n + 1))
        os.replace(self.path, self._rotated(1))


def _write(handle: int, line: bytes) -> None:
    left = memoryview(line)
    while left:
        left = left[os.write(handle, left) :]


def _last_line(path: Path) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        end = os.fstat(handle).st_size
        tail = b""
        at = end
        while at > 0 and tail.rstrip(b"\n").count(b"\n") < 2:
            step = min(TAIL_BYTES, at)
            at -= step
            tail = os.pread(handle, step, at) + tail
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            os.ftruncate(handle, at + whole)
        lines = tail[:whole].splitlines()
        return lines[-1] if lines else None
    finally:
        os.close(handle)


class EventLog:
    """Follows the history while it leads, and writes its forwards down."""

    def __init__(
        self,
        history: History,
        folder: Path,
        settings: ArchiveSettings,
        *,
        holder: str,
        backoff_s: float = 1.0,
        ttl: timedelta = TTL,
        wait: timedelta = WAIT,
    ) -> None:
        self._history = history
        self._lines = RotatingLog(folder, settings.event_log_bytes, settings.event_log_files)
        self._leading = Leading(history, role=ROLE, holder=holder, ttl=ttl)
        self._backoff_s = backoff_s
        self._wait = wait
        self._written = False

    async def run(self) -> None:
        """Write while leading, for ever. Ends when cancelled."""
        await self._leading.run(self._work)

    async def _work(self, lease: Lease) -> None:
        backoff = self._backoff_s
        while True:
            try:
                await self._follow(lease)
            except OSError as error:
                FAILURES.labels(NAME).inc()
                log.error("event log not written", file=str(self._lines.path), reason=str(error)[:300])
            if self._written:
                backoff, self._written = self._backoff_s, False
            await asyncio.sleep(backoff)
            backoff = min(LONGEST_BACKOFF_S, backoff * 2)

    async def _follow(self, lease: Lease) -> None:
        checkpoint = await self._history.load(NAME)
        saved_at = checkpoint.last_id if checkpoint else ORIGIN
        at = max(saved_at, await in_thread(self._own_place, name="archive"), key=stream_key)
        trimmed = await self._history.trimmed()
        if stream_key(at) < stream_key(trimmed) and at != ORIGIN:
            GAPS.labels(NAME).inc()
            log.error("events were trimmed before they were logged", at=at, trimmed=trimmed)
        while True:
            entries = await self._history.read(at, PAGE, self._wait)
            LAG_SECONDS.labels(NAME).set(age_s(entries[0].stream_id) if entries else 0.0)
            if not entries:
                continue
            lines = await self._lines_of(entries)
            if lines:
                await in_thread(lambda lines=lines: self._lines.append(lines), name="archive")
            at = entries[-1].stream_id
            draft = Checkpoint(last_id=at, state=b"", format=FORMAT)
            await self._history.save(NAME, draft, lease, saved_at)
            saved_at, self._written = at, True
            ROWS.labels(NAME).inc(len(lines))

    def _own_place(self) -> StreamId:
        line = self._lines.last_line()
        if line is None:
            return ORIGIN
        try:
            place = StreamId(json.loads(line)["stream_id"])
            stream_key(place)
        except (ValueError, KeyError, TypeError):
            raise OSError(f"{self._lines.path} is not an event log of coremesh: move it away") from None
        return place

    async def _lines_of(self, entries: Sequence[Entry]) -> list[bytes]:
        forwards = [
            (entry.stream_id, entry.event)
            for entry in entries
            if isinstance(entry.event, ForwardEvent) and entry.event.sound
        ]
        digests = {int(digest) for _, event in forwards for digest in event.hotkeys}
        names = await self._history.resolve(sorted(digests - {0}))
        lines: list[bytes] = []
        for place, event in forwards:
            texts = await self._history.transcript(event.id)
            lines.append(line_of(place, event, names, texts.completions if texts else ()))
        return lines


def line_of(
    place: StreamId, event: ForwardEvent, names: Mapping[int, str], completions: Sequence[str]
) -> bytes:
    """One forward as a line: what the first validator wrote, and where it stands in the history."""
    best = event.best if 0 <= event.best < len(completions) else None
    fields: dict[str, Any] = {
        "stream_id": place,
        "event_id": event.id,
        "time_ms": event.time_ms,
        "block": event.block,
        "kind": event.kind,
        "prompt": event.messages[-1].content if event.messages else "",
        "messages": [[m.role, m.content] for m in event.messages],
        "completion": completions[best] if best is not None else "",
        "uid": int(event.uids[event.best]) if 0 <= event.best < len(event.uids_) // 2 else None,
        "uids": event.uids.tolist(),
        "hotkeys": [names.get(int(digest), "") for digest in event.hotkeys],
        "statuses": event.status.tolist(),
        "rewards": [r if math.isfinite(r) else None for r in event.rewards.tolist()],
        "all_completions": list(completions),
    }
    # ASCII: other line ends than \n would break readers that know them.
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
