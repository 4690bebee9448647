"""One supervised process."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

EXIT_BAD_SETTING = 2
_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. ``ready`` is a URL that answers 200, or ``tcp://host:port``, once the process is useful."""

    name: str
    command: tuple[str, ...]
    ready: str
    port: int = 0
    port_flag: str = ""
    """The flag of ``coremesh up`` that names another port."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    nice: int = 0
    """How much it steps back for the others when they share few cores; 0 to 19."""
    stop_s: float = 12.0


class Supervised:
    """A process in a group of its own, so that all it ever started can be stopped with it.

    Not in a session of its own: Linux gives sessions equal shares of the machine, and ``nice`` would mean nothing.

    Its output goes to a log file, it inherits the descriptors ``inherits``, and it dies with the supervisor, even when
    that is killed (Linux).
    """

    def __init__(self, plan: Plan, log: Path, inherits: tuple[int, ...] = ()) -> None:
        self.plan = plan
        self.log = log
        self._inherits = inherits
        self.process: asyncio.subprocess.Process | None = None
        self.ready = False
        self.exited: int | None = None
        self.restarts = 0
        self.detail = ""
        self.started_at = 0.0
        self._deaths: deque[float] = deque(maxlen=5)
        self._log_start = 0

    @property
    def state(self) -> str:
        """``waiting``, ``starting``, ``ready``, ``restarting`` or ``stopped``."""
        if self.process is None:
            return "waiting" if self.exited is None else "restarting"
        return "ready" if self.ready else "starting"

    async def start(self) -> None:
        """Start it, with its log appended to."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.ready = False
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self.process = await asyncio.create_subprocess_exec(
                *self.plan.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.plan.environment},
                process_group=0,
                pass_fds=self._inherits,
                preexec_fn=partial(_in_child, self.plan.nice),
            )
        self.started_at = time.monotonic()

    async def wait(self) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        code = await self.process.wait()
        self._kill_group(signal.SIGKILL)
        self.process = None
        self.ready = False
        self.exited = code
        self._deaths.append(time.monotonic())
        return code

    @property
    def crash_loops(self) -> bool:
        """Whether it died five times within a minute."""
        return len(self._deaths) == 5 and self._deaths[-1] - self._deaths[0] < 60

    async def stop(self) -> None:
        """SIGTERM, time to drain, then SIGKILL to the whole group."""
        process = self.process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self.plan.stop_s)
        except TimeoutError:
            self._kill_group(signal.SIGKILL)
            await process.wait()
        self._kill_group(signal.SIGKILL)

    def _kill_group(self, number: signal.Signals) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def last_words(self) -> str:
        """The last plain line that it wrote since its start: services say there in one sentence what is wrong."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        plain = [
            line.strip() for line in lines if line.strip() and not line.startswith(("{", " ", "Traceback"))
        ]
        return plain[-1] if plain else ""


def _in_child(nice: int) -> None:  # pragma: no cover - runs in the child
    os.nice(nice)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
