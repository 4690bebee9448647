"""Asking once for everybody who looks at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from coremesh.errors import CoremeshError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """The last answer there was, None while there never was one; ``problem`` says why there is no newer one."""

    value: T | None
    age_s: float
    problem: str | None


class Cached(Generic[T]):
    """What ``load`` gives, at most once every ``ttl_s`` seconds. Callers meanwhile share one call, and a failure: it
    stands for ``failed_s``, where that is less."""

    def __init__(self, load: Callable[[], Awaitable[T]], ttl_s: float, *, failed_s: float = 2.0) -> None:
        self._load = load
        self._ttl_s = ttl_s
        self._failed_s = min(failed_s, ttl_s)
        self._lock = asyncio.Lock()
        self._value: T | None = None
        self._taken_s = 0.0
        self._tried_s = -float("inf")
        self._problem: str | None = None

    async def get(self) -> Seen[T]:
        """The newest answer. Never raises for a service that is away."""
        if self._old():
            async with self._lock:
                if self._old():
                    await self._refresh()
        age_s = time.monotonic() - self._taken_s if self._value is not None else 0.0
        return Seen(self._value, age_s, self._problem)

    def _old(self) -> bool:
        stands_s = self._ttl_s if self._problem is None else self._failed_s
        return time.monotonic() - self._tried_s >= stands_s

    async def _refresh(self) -> None:
        try:
            self._value = await self._load()
            self._taken_s = time.monotonic()
            self._problem = None
        except CoremeshError as error:
            self._problem = error.message
        # Not reached when the caller goes away: the next one asks.
        self._tried_s = time.monotonic()
