"""A connection that breaks within a sweep over the history."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coremesh.events import Change, Event, MetagraphEvent, decode, encode
from coremesh.history.page import PIECE, Page, has_pages
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN, new_event_id
from services.weights.fold import ScoreFold
from services.weights.kernel import has_kernel
from services.weights.rules import SoftmaxEma
from services.weights.scores import ScoreState, dump
from services.weights.scores import fold as scores_fold
from tests.events import hotkey, make_event
from tests.redis_server import RedisServer


class Breaking:
    """Passes on what clients and Redis say, but breaks connections that have had more than so many bytes."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self.after: int | None = None
        self.broken = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_redis = await asyncio.open_unix_connection(str(self._socket))
        up = asyncio.create_task(self._pass(reader, to_redis))
        passed = 0
        with contextlib.suppress(OSError):
            while data := await upstream.read(65_536):
                passed += len(data)
                if self.after is not None and passed > self.after:
                    self.after = None
                    self.broken += 1
                    break
                writer.write(data)
                await writer.drain()
        up.cancel()
        writer.close()
        to_redis.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)


@asynccontextmanager
async def breaking(redis: RedisServer, socket: Path) -> AsyncIterator[Breaking]:
    proxy = Breaking(redis.socket)
    server = await asyncio.start_unix_server(proxy.handle, str(socket))
    try:
        yield proxy
    finally:
        server.close()


@pytest.mark.skipif(not has_pages(), reason="what frames replies is not compiled")
@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
async def test_what_was_taken_is_not_given_again(
    redis_history: RedisHistory, redis_server: RedisServer, share: float
) -> None:
    for n in range(450):
        await redis_history.append(make_event({1: 0.5}, question=f"question {n}? " * 300), None, [])
    wanted = await redis_history.read(ORIGIN, 1000)
    size = sum(len(entry.event.messages[0].content) for entry in wanted)  # type: ignore[union-attr]
    assert size > 2 * PIECE
    socket = redis_server.directory / "breaking.sock"
    socket.unlink(missing_ok=True)
    async with breaking(redis_server, socket) as proxy:
        history = RedisHistory(f"unix://{socket}", netuid=1)
        found = []
        proxy.after = int(share * size)
        try:
            count = await history.sweep(
                ORIGIN, 1000, Page(200), lambda page: found.extend(page.entries(decode, 0, page.count))
            )
        finally:
            await history.close()
        assert proxy.broken == 1
    assert count == len(found) == 450
    assert found == wanted


@pytest.mark.skipif(not has_pages() or not has_kernel(SoftmaxEma()), reason="the kernel is not compiled")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.6, 0.9, 2.0])
async def test_the_kernel_folds_nothing_twice_and_leaves_nothing_out(
    redis_history: RedisHistory, redis_server: RedisServer, share: float
) -> None:
    """It takes most events as they come, without Python; not those between."""
    history: list[Event] = []
    for n in range(600):
        hotkeys = {3: f"new-{n % 2}"} if n % 97 == 5 else {}
        history.append(
            make_event(
                {uid: (uid * n) % 11 * 0.1 for uid in range(1 + n % 9)},
                question="why? " * 400,
                hotkeys=hotkeys,
            )
        )
        if n % 113 == 7:
            changes = (Change(3, hotkey(3), f"new-{n % 2}"),)
            history.append(
                MetagraphEvent(id=new_event_id(), time_ms=0, block=n, size=8 + n % 3, changes=changes)
            )
        if n % 151 == 3:
            history.append(make_event({uid: uid * 0.01 for uid in range(600)}))
    for event in history:
        await redis_history.append(event, None, [])
    size = sum(len(encode(event)) for event in history)
    socket = redis_server.directory / "breaking.sock"
    socket.unlink(missing_ok=True)
    fold = ScoreFold(SoftmaxEma())
    state, pages = fold.initial(), 0

    def take(page: Page) -> None:
        nonlocal state, pages
        state = fold.apply_page(state, page)
        pages += 1

    async with breaking(redis_server, socket) as proxy:
        swept = RedisHistory(f"unix://{socket}", netuid=1)
        proxy.after = int(share * size)
        try:
            count = await swept.sweep(ORIGIN, 10_000, Page(200), take)
        finally:
            await swept.close()
        assert proxy.broken == (share < 1)
    assert count == len(history)
    assert pages < len(history) // 4
    assert dump(state) == dump(scores_fold(ScoreState(), history, SoftmaxEma()))
