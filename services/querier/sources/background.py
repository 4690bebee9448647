"""Reading texts ahead, in a thread of its own: files and hubs block, and the loop must not."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator

import structlog

from services.querier.metrics import TRAINER_TEXTS

log = structlog.get_logger(__name__)

AHEAD = 256
PATIENCE_S = 2.0
"""How long a text is waited for; a source that kept somebody waiting once is not waited for until it speaks."""
FIRST_REST_S = 5.0
MAX_REST_S = 600.0
PUT_S = 0.5


class Background:
    """Texts of ``read``, pass after pass, at most ``ahead`` of them in memory.

    ``read`` gives one pass; what it raises, and a pass without any text, only makes the reader rest. A reader
    that hangs holds up nothing but its own daemon thread.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Iterator[str]],
        *,
        ahead: int = AHEAD,
        patience_s: float = PATIENCE_S,
        first_rest_s: float = FIRST_REST_S,
        max_rest_s: float = MAX_REST_S,
    ) -> None:
        self.name = name
        self._read = read
        self._ahead = ahead
        self._patience_s = patience_s
        self._first_rest_s = first_rest_s
        self._max_rest_s = max_rest_s
        self._reader: _Reader | None = None
        self._late = False

    async def next(self) -> str | None:
        """The next text, or None when the source has none to give now. Never raises."""
        if self._reader is None:
            self._reader = _Reader(self.name, self._read, self._ahead, self._first_rest_s, self._max_rest_s)
            self._late = False
        reader = self._reader
        patient_until = time.monotonic() + (0.0 if self._late else self._patience_s)
        while (text := reader.take()) is None:
            if reader.resting or time.monotonic() >= patient_until:
                self._late = True
                TRAINER_TEXTS.labels(self.name, "none").inc()
                return None
            await asyncio.sleep(0.02)
        self._late = False
        TRAINER_TEXTS.labels(self.name, "ok").inc()
        return text

    def close(self) -> None:
        """Stop reading. ``next`` begins again."""
        if self._reader is not None:
            self._reader.stop()
            self._reader = None


class _Reader:
    """One thread and what it has read."""

    def __init__(
        self, name: str, read: Callable[[], Iterator[str]], ahead: int, first_rest_s: float, max_rest_s: float
    ) -> None:
        self._name = name
        self._read = read
        self._first_rest_s = first_rest_s
        self._max_rest_s = max_rest_s
        self._texts: queue.Queue[str] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self.resting = False
        threading.Thread(target=self._run, name=f"source-{name}", daemon=True).start()

    def take(self) -> str | None:
        """A text that has been read, if any."""
        try:
            return self._texts.get_nowait()
        except queue.Empty:
            return None

    def stop(self) -> None:
        """End the thread as soon as it looks up."""
        self._stopped.set()

    def _run(self) -> None:
        rest_s = self._first_rest_s
        while not self._stopped.is_set():
            read = 0
            try:
                for text in self._read():
                    if not self._put(text):
                        return
                    read += 1
                problem = "" if read else "there is no usable text in it"
            except Exception as error:  # whatever the libraries below raise
                problem = f"{type(error).__name__}: {error}"
            if not problem:
                rest_s = self._first_rest_s
                continue
            if read:
                rest_s = self._first_rest_s
            log.warning("source of questions failed", source=self._name, reason=problem[:500], rest_s=rest_s)
            self.resting = True
            self._stopped.wait(rest_s)
            self.resting = False
            rest_s = min(self._max_rest_s, rest_s * 2)

    def _put(self, text: str) -> bool:
        """Whether ``text`` found room before the end."""
        while not self._stopped.is_set():
            try:
                self._texts.put(text, timeout=PUT_S)
            except queue.Full:
                continue
            return True
        return False
