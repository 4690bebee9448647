"""Doing work on one instance only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol

import structlog

from coremesh.errors import HistoryUnavailable
from coremesh.history import Lease

log = structlog.get_logger(__name__)

CANCEL_AGAIN_S = 0.5


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


class Leadership:
    """Runs ``work`` while this instance holds the lease of ``role``, and cancels it when the lease is lost.

    Redis being away is survived for as long as the lease would have lasted.
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
        self.leading = False

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Stand by and lead, for ever. Raises what ``work`` raises."""
        while True:
            lease = None
            try:
                lease = await self._leases.acquire(self._role, self._holder, self._ttl)
            except HistoryUnavailable as error:
                log.warning("cannot ask for the lease", role=self._role, reason=error.message)
            if lease is None:
                await asyncio.sleep(self._ttl.total_seconds() / 4)
                continue
            log.info("leading", role=self._role, token=lease.token)
            self._set(True)
            try:
                await self._lead(lease, work)
            finally:
                self._set(False)
                await self._give_back(lease)

    async def _lead(self, lease: Lease, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        keeping = asyncio.create_task(self._keep(lease), name=f"lease-{self._role}")
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            await _end(working, keeping)

    async def _keep(self, lease: Lease) -> None:
        """Renew until the lease is lost."""
        ttl = self._ttl.total_seconds()
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(ttl / 3)
            asked = time.monotonic()
            try:
                # A hanging Redis must not hide that the time is over.
                async with asyncio.timeout(max(0.05, renewed + ttl - asked)):
                    kept = await self._leases.renew(lease, self._ttl)
            except (HistoryUnavailable, TimeoutError):
                if time.monotonic() - renewed >= ttl:
                    log.warning("no longer leading: Redis is away", role=self._role)
                    return
                continue
            if not kept:
                log.warning("no longer leading", role=self._role)
                return
            renewed = asked

    async def _give_back(self, lease: Lease) -> None:
        with contextlib.suppress(HistoryUnavailable, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._leases.release(lease)

    def _set(self, leading: bool) -> None:
        self.leading = leading
        self._on_change(leading)


async def _end(*tasks: asyncio.Future[None]) -> None:
    """Cancel ``tasks`` until they are over: before Python 3.12 wait_for may swallow a cancellation."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
