"""Where events wait on disk while Redis is away."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from coremesh.errors import Unavailable
from coremesh.events import ForwardEvent, Transcript
from coremesh.types import event_id_ms

log = structlog.get_logger(__name__)

OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
"""What fails for want of something in this process or machine, and says nothing about a file."""


DAMAGED, UNSURE = ASIDE = (".unreadable", ".unsure")
"""What files that are not sent are called: they hold no event, or one that may be in the history."""


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

    ``max_events`` and ``max_bytes`` bound it; beyond, put raises SpoolFull. A file that cannot be read is left out, so
    that the others go on; one that is damaged gets another name. Each is told in the log once.
    """

    def __init__(
        self, directory: Path, *, max_events: int = 10_000, max_bytes: int = 512 * 1024 * 1024
    ) -> None:
        self._directory = directory
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._failing: set[str] = set()
        """Ids whose files could not be read, since the directory was last looked at."""
        self._told: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)
        for draft in directory.glob("*.draft"):  # of a process that was killed while it wrote
            draft.unlink(missing_ok=True)
        self.look()

    def look(self) -> None:
        """See what is on the disk, and try again what could not be read. Raises OSError."""
        self._failing.clear()
        self._count_again()

    def _count_again(self) -> None:
        paths = self._paths()
        self._count, self._bytes = len(paths), sum(_size(path) for path in paths)
        self._renamed = sum(1 for suffix in ASIDE for _ in self._directory.glob(f"*{suffix}"))

    def __len__(self) -> int:
        """Events that wait to be read."""
        return self._count - len(self._failing)

    @property
    def set_aside(self) -> int:
        """Files that are not sent: their disk does not give them, they are damaged, or may have been counted."""
        return len(self._failing) + self._renamed

    def put(self, spooled: Spooled) -> None:
        """Keep an event; it is on the disk when this returns. Raises SpoolFull, OSError."""
        event_id_ms(spooled.event.id)  # the id names a file: only a ULID may
        packed = msgspec.msgpack.encode(spooled)
        if self._count >= self._max_events or self._bytes + len(packed) > self._max_bytes:
            raise SpoolFull(f"{self._count} events wait for Redis and no more fit")
        path = self._path(spooled.event.id)
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
        """Up to ``count`` events in the order of their ids, without those whose ids are in ``besides``. A file that
        cannot be read is set aside. Raises OSError."""
        found: list[Spooled] = []
        paths = self._paths()
        if len(paths) != self._count:  # somebody took some away
            self._count_again()
            self._failing &= {path.stem for path in paths}
        left = [path for path in paths if path.stem not in besides and path.stem not in self._failing]
        for path in left:
            if len(found) == count:
                break
            try:
                spooled = _read(path)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                self._set_aside(path, DAMAGED, str(error))
            except OSError as error:
                if error.errno in OURS:
                    raise
                self._fails(path, error)
            else:
                if spooled is not None:
                    found.append(spooled)
        return found

    def doubt(self, event_id: str, reason: str) -> None:
        """Set an event aside that may be in the history."""
        self._set_aside(self._path(event_id), UNSURE, reason)

    def _set_aside(self, path: Path, suffix: str, reason: str) -> None:
        size = _size(path)
        try:
            path.rename(path.with_suffix(suffix))
        except OSError as error:  # it may be a read-only file system
            self._fails(path, error)
            return
        self._count -= 1
        self._bytes -= size
        self._renamed += 1
        log.error("a file of the spool is set aside", file=str(path.with_suffix(suffix)), reason=reason)

    def _fails(self, path: Path, error: OSError) -> None:
        self._failing.add(path.stem)
        if path.stem not in self._told:
            self._told.add(path.stem)
            log.error("a file of the spool cannot be read", file=str(path), reason=str(error))

    def ids(self) -> list[str]:
        """Of all files that are not set aside for good, in order. Raises OSError."""
        return [path.stem for path in self._paths()]

    def find(self, event_id: str) -> Spooled | None:
        """The event of that id, or None when there is no such file or it cannot be read."""
        try:
            return _read(self._path(event_id))
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return None

    def drop(self, event_id: str) -> None:
        """Forget an event that is in the history now. Raises OSError."""
        path = self._path(event_id)
        size = _size(path)
        with suppress(FileNotFoundError):
            path.unlink()
            self._count -= 1
            self._bytes -= size
            self._told.discard(path.stem)

    def _path(self, event_id: str) -> Path:
        return self._directory / f"{event_id}.event"

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("*.event"))


def _read(path: Path) -> Spooled | None:
    """What is in a file, or None when somebody took it away. Raises OSError, msgspec.DecodeError or ValidationError."""
    try:
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return None


def _size(path: Path) -> int:
    """Bytes of a file, 0 where that is not to be had."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sync_names(directory: Path) -> None:
    """Have the names in a directory outlive a loss of power, as their files do."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
