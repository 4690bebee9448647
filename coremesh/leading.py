"""Work that one instance at a time does, behind a lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol

import structlog

from coremesh.aside import end_tasks
from coremesh.errors import CoremeshError, HistoryUnavailable, LeaseLost
from coremesh.history import Lease

log = structlog.get_logger(__name__)

TTL = timedelta(seconds=6)
"""How long a lease lasts that is not renewed."""


class Leases(Protocol):
    """The part of a History that keeps leases."""

    async def acquire(self, role: str, holder: str, ttl: timedelta) -> Lease | None:
        """Take a free lease, or None."""
        ...

    async def renew(self, lease: Lease, ttl: timedelta) -> bool:
        """Keep a lease; False when it is lost."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        ...


class Leading:
    """Runs work while this instance holds the lease of ``role``, and stands by otherwise.

    A lease that cannot be renewed ends the work at once: whoever leads next may have begun. ``about`` names what is
    led in the log.
    """

    def __init__(self, leases: Leases, *, role: str, holder: str, ttl: timedelta = TTL, **about: Any) -> None:
        self._leases = leases
        self._role = role
        self._holder = holder
        self._ttl = ttl
        self._log = log.bind(**(about or {"role": role}))
        self.lease: Lease | None = None
        self._held_until_s = 0.0
        self._aside = asyncio.Event()

    def stand_aside(self) -> None:
        """Give the lease back soon, and leave it for a while to whoever stands by; where nobody does, lead on then."""
        self._aside.set()

    def holds(self, lease: Lease) -> bool:
        """Whether ``lease`` is ours and has not run out, by our own clock: a process that was stopped for a while
        finds that it no longer leads before it has asked anyone."""
        return self.lease is lease and time.monotonic() < self._held_until_s

    async def run(self, work: Callable[[Lease], Awaitable[None]]) -> None:
        """Stand by and lead, for ever. Redis being away only makes it wait. Ends when cancelled; raises what
        ``work`` raises, but LeaseLost and HistoryUnavailable."""
        while True:
            try:
                asked_s = time.monotonic()
                self.lease = await self._leases.acquire(self._role, self._holder, self._ttl)
                self._held_until_s = asked_s + self._ttl.total_seconds()
                if self.lease is None:
                    # Often: what is left of the lease, and this, is how late the next leader is.
                    await asyncio.sleep(self._ttl.total_seconds() / 12)
                    continue
                self._log.info("leading", token=self.lease.token)
                await self._lead(self.lease, work)
                if self._aside.is_set():
                    lease, self.lease = self.lease, None
                    self._log.warning("standing aside")
                    await give_back(self._leases, lease)
                    await asyncio.sleep(self._ttl.total_seconds() / 4)  # a standby asks three times meanwhile
            except LeaseLost as error:
                self._log.warning("no longer leading", reason=error.message)
            except HistoryUnavailable as error:
                self._log.warning("history away", reason=error.message)
                await asyncio.sleep(self._ttl.total_seconds() / 12)
            except asyncio.CancelledError:
                if self.lease is not None:
                    await give_back(self._leases, self.lease)
                raise
            finally:
                self.lease = None

    async def _lead(self, lease: Lease, work: Callable[[Lease], Awaitable[None]]) -> None:
        """Work until it is to stand aside. Raises LeaseLost, HistoryUnavailable and what ``work`` does."""
        self._aside.clear()
        tasks: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(self._keep(lease)),
            asyncio.ensure_future(work(lease)),
            asyncio.ensure_future(self._aside.wait()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end_tasks(tasks)

    async def _keep(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self._ttl.total_seconds() / 3)
            asked_s = time.monotonic()
            if not await self._leases.renew(lease, self._ttl):
                raise LeaseLost(f"the lease of {self._role} ran out")
            self._held_until_s = asked_s + self._ttl.total_seconds()


async def give_back(leases: Leases, lease: Lease) -> None:
    """Free a lease for the next at once; where that fails or hangs it runs out by itself."""
    try:
        async with asyncio.timeout(1.0):
            await leases.release(lease)
    except (CoremeshError, TimeoutError):
        log.info("lease left to expire", role=lease.role)
