"""A spool directory of one's own."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from coremesh.errors import BadSetting
from coremesh.history.spool import Spool

MOST_SHARING = 64


class OwnSpool:
    """A spool in the first free place under ``directory``: several processes may be given the same one.

    The place is locked for as long as the process lives, so after a crash the next to start takes it over with what
    waits in it. Raises BadSetting when the directory cannot be used.
    """

    def __init__(self, directory: Path, *, max_events: int) -> None:
        self._lock = -1
        for n in range(MOST_SHARING):
            place = directory / str(n)
            try:
                place.mkdir(parents=True, exist_ok=True)
                lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise BadSetting(
                    f"--querier.spool {directory}: {error.strerror}",
                    remedy="Name a directory that can be written.",
                ) from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            self._lock = lock
            self.spool = Spool(place, max_events=max_events)
            return
        raise BadSetting(
            f"--querier.spool {directory}: {MOST_SHARING} processes use it already",
            remedy="Name another directory.",
        )

    def close(self) -> None:
        """Let others have the place."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
