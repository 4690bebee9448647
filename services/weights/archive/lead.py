"""Work that one instance at a time does, behind a lease; and blocking work that may never come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import structlog

from coremesh.errors import CoremeshError, HistoryUnavailable, LeaseLost
from coremesh.history import History, Lease

log = structlog.get_logger(__name__)

T = TypeVar("T")
TTL = timedelta(seconds=6)


async def lead(
    history: History,
    role: str,
    holder: str,
    work: Callable[[Lease], Awaitable[None]],
    *,
    ttl: timedelta = TTL,
) -> None:
    """Run ``work`` while this instance holds the lease of ``role``, again and again. Ends when cancelled."""
    while True:
        lease = None
        try:
            lease = await history.acquire(role, holder, ttl)
            if lease is None:
                await asyncio.sleep(ttl.total_seconds() / 4)
                continue
            log.info("leading", role=role, token=lease.token)
            await _both(_keep(history, lease, ttl), work(lease))
        except LeaseLost as error:
            log.warning("no longer leading", role=role, reason=error.message)
        except HistoryUnavailable as error:
            log.warning("history away", role=role, reason=error.message)
            await asyncio.sleep(ttl.total_seconds() / 12)
        except asyncio.CancelledError:
            await _give_back(history, lease)
            raise


async def _keep(history: History, lease: Lease, ttl: timedelta) -> None:
    while True:
        await asyncio.sleep(ttl.total_seconds() / 3)
        if not await history.renew(lease, ttl):
            raise LeaseLost(f"the lease of {lease.role} ran out")


async def _both(*works: Awaitable[None]) -> None:
    tasks = {asyncio.ensure_future(work) for work in works}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        left = tasks
        while left:
            # Again and again: redis-py swallows a cancellation that meets its own timeout.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=0.5)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _give_back(history: History, lease: Lease | None) -> None:
    if lease is None:
        return
    try:
        async with asyncio.timeout(1.0):
            await history.release(lease)
    except (CoremeshError, TimeoutError):
        log.info("lease left to expire", role=lease.role)


async def in_thread(work: Callable[[], T]) -> T:
    """What ``work`` gives, done in a thread that ends with the process even while it hangs."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(_settle, future, result, failure)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=run, name="archive", daemon=True).start()
    return await future


def _settle(future: asyncio.Future[T], result: T | None, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)  # type: ignore[arg-type]
