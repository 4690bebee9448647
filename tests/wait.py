"""Waiting for something to come true, instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def wait_until(
    look: Callable[[], Awaitable[T] | T], *, timeout: float = 20.0, every: float = 0.02, why: str = ""
) -> T:
    """The first truthy answer of ``look``; fails after ``timeout`` seconds, saying what was seen last."""
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if asyncio.iscoroutine(seen):
            seen = await seen
        if seen:
            return seen  # type: ignore[return-value]
        assert time.monotonic() < deadline, (
            f"{why or 'it'} did not come true in {timeout} s; last seen: {seen!r}"
        )
        await asyncio.sleep(every)
