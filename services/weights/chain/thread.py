"""A thread with an event loop of its own, for a library that may block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")

GRACE_S = 1.0
"""A loop that has not answered this long after a deadline is stuck."""


class LoopStuck(Exception):
    """The thread does not come back from a blocking call."""


def _on_orphan(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # What a cancelled call leaves behind fails when its connection is closed; its caller is gone.
    log.debug("a call nobody waits for failed", reason=str(context.get("exception") or context["message"]))


class LoopThread:
    """Runs coroutines elsewhere. The thread is a daemon: it ends with the process whatever it is doing."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_on_orphan)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]], deadline_s: float) -> T:
        """The result of ``work()``, run on the thread. TimeoutError past the deadline; LoopStuck when the thread
        cannot even say so. Cancelling cancels the work."""

        async def bounded() -> T:
            return await asyncio.wait_for(work(), deadline_s)

        future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(bounded(), self._loop))
        try:
            done, _ = await asyncio.wait({future}, timeout=deadline_s + GRACE_S)
        finally:
            future.cancel()  # nothing, once it is done
        if not done:
            raise LoopStuck
        return future.result()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs, or hangs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the loop soon; never waits."""
        self._loop.call_soon_threadsafe(self._loop.stop)
