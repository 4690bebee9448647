"""One mesh a directory: who runs one there holds it, until the last of its processes has ended."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from coremesh.errors import BadSetting

ORPHANS_S = 30.0
"""How long what a killed supervisor has left behind may take to end: services drain first."""
LOOK_EVERY_S = 0.1


class Claim:
    """A directory held by one supervisor. A context manager; ``fd`` is inherited by the processes that use it.

    Two locks, both the kernel's, so that whatever is killed leaves none behind: the supervisor's own, and one that its
    processes hold too. A supervisor that was killed has given up the first at once, and the second when its processes
    have ended; Redis must not run twice on one set of files.
    """

    def __init__(self, directory: Path, on_wait: Callable[[str], None] = lambda _said: None) -> None:
        self._directory = directory
        self._on_wait = on_wait
        self._files: list[int] = []

    @property
    def fd(self) -> int:
        """The lock for processes to inherit."""
        return self._files[1]

    def __enter__(self) -> Claim:
        """Raises BadSetting: somebody else runs a mesh there, or the directory cannot be used."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for name in ("supervisor.lock", "processes.lock"):
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._files.append(os.open(self._directory / name, flags, 0o600))
            self._own()
            self._wait_for_orphans()
        except OSError as error:
            self._close()
            raise BadSetting(
                f"--dir {self._directory} cannot be used: {error.strerror}",
                remedy="Name a directory on this machine that you may write to: coremesh up --dir DIR.",
            ) from None
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _own(self) -> None:
        if not _locked(self._files[0]):
            raise BadSetting(
                f"a mesh runs in {self._directory} already{_by(self._files[0])}",
                remedy="Stop it with Ctrl-C where it was started, or run another beside it, with a directory and ports "
                "of its own: coremesh up --dir DIR --port N --chain-port N --redis-port N.",
            )
        # Nothing is decided by it: it is for whoever is refused.
        os.ftruncate(self._files[0], 0)
        os.pwrite(self._files[0], str(os.getpid()).encode(), 0)

    def _wait_for_orphans(self) -> None:
        deadline = time.monotonic() + ORPHANS_S
        said = False
        while not _locked(self._files[1]):
            if not said:
                self._on_wait("processes of a mesh that was killed are still ending here; waiting for them")
                said = True
            if time.monotonic() > deadline:
                raise BadSetting(
                    f"processes of a mesh that was killed still run in {self._directory} after {ORPHANS_S:.0f} s",
                    remedy=f"`fuser {self._directory / 'processes.lock'}` names them: stop them, then try again.",
                )
            time.sleep(LOOK_EVERY_S)

    def _close(self) -> None:
        while self._files:
            os.close(self._files.pop())


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _by(file: int) -> str:
    pid = os.pread(file, 32, 0).decode(errors="replace").strip()
    return f", as process {pid}" if pid.isdecimal() else ""
