"""Background work that a service cannot live without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

import structlog

CANCEL_AGAIN_S = 1.0

log = structlog.get_logger(__name__)


class Loops:
    """Runs background coroutines; when one dies, ``on_death`` is called so that the process ends with a code.

    An async context manager: leaving it cancels what still runs and waits for it.
    """

    def __init__(self, on_death: Callable[[str, BaseException | None], None]) -> None:
        self._on_death = on_death
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def __aenter__(self) -> Loops:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Cancel what still runs and wait for it; call it before closing what the loops use."""
        self._closing = True
        while self._tasks:
            # Again and again: before Python 3.12 wait_for may swallow a cancellation.
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=CANCEL_AGAIN_S)

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work``, which is meant never to end."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._closing or task.cancelled():
            return
        error = task.exception()
        log.critical("background loop died", loop=task.get_name(), exc_info=error)
        self._on_death(task.get_name(), error)
