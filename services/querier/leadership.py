"""Doing work on one instance only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from coremesh.aside import end_tasks
from coremesh.errors import HistoryUnavailable
from coremesh.history import Lease
from coremesh.leading import Leases, give_back

log = structlog.get_logger(__name__)


class Leadership:
    """Runs ``work`` while this instance holds the lease of ``role``, and cancels it when the lease is lost.

    Unlike coremesh.leading.Leading, Redis being away is survived for as long as the lease would have lasted: events of
    two trainers would be one too many, but break nothing.
    """

    def __init__(
        self,
        leases: Leases,
        *,
        role: str,
        holder: str,
        ttl: timedelta,
        on_change: Callable[[bool], None] = lambda leading: None,
    ) -> None:
        self._leases = leases
        self._role = role
        self._holder = holder
        self._ttl = ttl
        self._on_change = on_change
        self._leading = False
        self._held_until_s = 0.0

    @property
    def leading(self) -> bool:
        """Whether ``work`` runs and the lease has not run out, by our own clock: a process that stood still for a while
        no longer leads before it has asked anyone."""
        return self._leading and time.monotonic() < self._held_until_s

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Stand by and lead, for ever. Raises what ``work`` raises."""
        while True:
            lease = None
            asked = time.monotonic()
            try:
                lease = await self._leases.acquire(self._role, self._holder, self._ttl)
            except HistoryUnavailable as error:
                log.warning("cannot ask for the lease", role=self._role, reason=error.message)
            if lease is None:
                await asyncio.sleep(self._ttl.total_seconds() / 4)
                continue
            log.info("leading", role=self._role, token=lease.token)
            self._held_until_s = asked + self._ttl.total_seconds()
            self._set(True)
            try:
                await self._lead(lease, work)
            finally:
                self._set(False)
                await give_back(self._leases, lease)

    async def _lead(self, lease: Lease, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        keeping = asyncio.create_task(self._keep(lease), name=f"lease-{self._role}")
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            await end_tasks((working, keeping))

    async def _keep(self, lease: Lease) -> None:
        """Renew until the lease is lost."""
        ttl = self._ttl.total_seconds()
        while True:
            await asyncio.sleep(ttl / 3)
            asked = time.monotonic()
            try:
                # A hanging Redis must not hide that the time is over.
                async with asyncio.timeout(max(0.05, self._held_until_s - asked)):
                    kept = await self._leases.renew(lease, self._ttl)
            except (HistoryUnavailable, TimeoutError):
                if time.monotonic() >= self._held_until_s:
                    log.warning("no longer leading: Redis is away", role=self._role)
                    return
                continue
            if not kept:
                log.warning("no longer leading", role=self._role)
                return
            self._held_until_s = asked + ttl

    def _set(self, leading: bool) -> None:
        self._leading = leading
        self._on_change(leading)
