"""Where events wait on disk while Redis is away."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from coremesh.errors import Unavailable
from coremesh.events import ForwardEvent, Transcript
from coremesh.types import event_id_ms


class Spooled(msgspec.Struct, frozen=True, array_like=True):
    """An append that has not happened yet."""

    event: ForwardEvent
    transcript: Transcript | None
    hotkeys: list[str]


class SpoolFull(Unavailable):
    """The spool is at its bound: Redis has been away for too long."""

    code = "spool_full"
    default_remedy = "Bring Redis back, or raise COREMESH_QUERIER_SPOOL_MAX_EVENTS."


_decoder = msgspec.msgpack.Decoder(Spooled)


class Spool:
    """One file an event, named by its id, so that draining twice appends once. Blocking: call it in a thread.

    ``max_events`` and ``max_bytes`` bound it; beyond, put raises SpoolFull.
    """

    def __init__(
        self, directory: Path, *, max_events: int = 10_000, max_bytes: int = 512 * 1024 * 1024
    ) -> None:
        self._directory = directory
        self._max_events = max_events
        self._max_bytes = max_bytes
        directory.mkdir(parents=True, exist_ok=True)
        for draft in directory.glob("*.draft"):  # of a process that was killed while it wrote
            draft.unlink(missing_ok=True)
        self._look()

    def _look(self) -> None:
        sizes = [path.stat().st_size for path in self._paths()]
        self._count, self._bytes = len(sizes), sum(sizes)

    def __len__(self) -> int:
        return self._count

    def put(self, spooled: Spooled) -> None:
        """Keep an event; it is on the disk when this returns. Raises SpoolFull, OSError."""
        event_id_ms(spooled.event.id)  # the id names a file: only a ULID may
        packed = msgspec.msgpack.encode(spooled)
        if self._count >= self._max_events or self._bytes + len(packed) > self._max_bytes:
            raise SpoolFull(f"{self._count} events wait for Redis and no more fit")
        path = self._directory / f"{spooled.event.id}.event"
        draft = path.with_suffix(".draft")
        try:
            with draft.open("wb") as file:
                file.write(packed)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        self._count += 1
        self._bytes += len(packed)
        with suppress(OSError):  # not every file system does that
            _sync_names(self._directory)

    def oldest(self, count: int, besides: Collection[str] = ()) -> list[Spooled]:
        """Up to ``count`` events in the order of their ids, without those whose ids are in ``besides``. An unreadable
        file is set aside, never retried."""
        found: list[Spooled] = []
        paths = self._paths()
        if len(paths) != self._count:  # somebody took some away
            self._look()
        for path in [path for path in paths if path.stem not in besides][:count]:
            try:
                found.append(_decoder.decode(path.read_bytes()))
            except (msgspec.DecodeError, msgspec.ValidationError):
                self._forget(path)
                path.rename(path.with_suffix(".unreadable"))
        return found

    def drop(self, spooled: Spooled) -> None:
        """Forget an event that is in the history now."""
        path = self._directory / f"{spooled.event.id}.event"
        if path.exists():
            self._forget(path)
            path.unlink()

    def _forget(self, path: Path) -> None:
        self._count -= 1
        self._bytes -= path.stat().st_size

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("*.event"))


def _sync_names(directory: Path) -> None:
    """Have the names in a directory outlive a loss of power, as their files do."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
