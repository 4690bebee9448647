"""Work on one instance only, and not for long after the lease is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from coremesh.errors import HistoryUnavailable
from coremesh.history import Lease
from services.querier.leadership import Leadership
from tests.wait import wait_until


class FakeLeases:
    """Leases in memory that can be away, hang, or be taken."""

    def __init__(self) -> None:
        self.holder: str | None = None
        self.away = False
        self.hanging = False

    async def _answer(self) -> None:
        if self.hanging:
            await asyncio.sleep(3600)
        if self.away:
            raise HistoryUnavailable("away")

    async def acquire(self, role: str, holder: str, ttl: timedelta) -> Lease | None:
        await self._answer()
        if self.holder not in (None, holder):
            return None
        self.holder = holder
        return Lease(role, holder, 1)

    async def renew(self, lease: Lease, ttl: timedelta) -> bool:
        await self._answer()
        return self.holder == lease.holder

    async def release(self, lease: Lease) -> None:
        await self._answer()
        if self.holder == lease.holder:
            self.holder = None


@asynccontextmanager
async def leading(leases: FakeLeases, holder: str = "a", ttl_s: float = 0.3) -> AsyncIterator[list[str]]:
    """Runs work that writes ``start`` and ``stop``."""
    log: list[str] = []

    async def work() -> None:
        log.append("start")
        try:
            await asyncio.sleep(3600)
        finally:
            log.append("stop")

    leadership = Leadership(leases, role="r", holder=holder, ttl=timedelta(seconds=ttl_s))
    task = asyncio.create_task(leadership.run(work))
    try:
        yield log
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not leadership.leading


async def test_a_lost_lease_stops_the_work_and_a_free_one_starts_it_again() -> None:
    leases = FakeLeases()
    async with leading(leases) as log:
        await wait_until(lambda: log == ["start"])
        leases.holder = "b"
        await wait_until(lambda: log == ["start", "stop"])
        leases.holder = None
        await wait_until(lambda: log == ["start", "stop", "start"])
    assert leases.holder is None


@pytest.mark.parametrize("how", ["away", "hanging"])
async def test_redis_away_for_longer_than_the_lease_stops_the_work(how: str) -> None:
    leases = FakeLeases()
    async with leading(leases) as log:
        await wait_until(lambda: log == ["start"])
        setattr(leases, how, True)
        await wait_until(lambda: log == ["start", "stop"])


async def test_redis_away_for_a_moment_does_not() -> None:
    leases = FakeLeases()
    async with leading(leases, ttl_s=2.0) as log:
        await wait_until(lambda: log == ["start"])
        leases.away = True
        await asyncio.sleep(0.8)
        leases.away = False
        await asyncio.sleep(0.8)
        assert log == ["start"]


async def test_work_that_fails_is_not_hidden() -> None:
    async def work() -> None:
        raise ValueError("broken")

    leadership = Leadership(FakeLeases(), role="r", holder="a", ttl=timedelta(seconds=1))
    with pytest.raises(ValueError, match="broken"):
        await leadership.run(work)


async def test_a_process_that_stood_still_knows_by_its_own_clock_that_it_leads_no_more() -> None:
    leases = FakeLeases()
    leadership = Leadership(leases, role="r", holder="a", ttl=timedelta(seconds=0.3))
    task = asyncio.create_task(leadership.run(lambda: asyncio.sleep(3600)))
    await wait_until(lambda: leadership.leading)
    # Another leads meanwhile; nobody has been asked yet when this goes on.
    time.sleep(0.4)  # noqa: ASYNC251
    leases.holder = "b"
    assert not leadership.leading
    leases.holder = None
    await wait_until(lambda: leadership.leading)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
