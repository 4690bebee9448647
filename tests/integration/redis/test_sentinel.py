"""The history by a real Sentinel: the master is killed, the replica is promoted, appends go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from coremesh.errors import HistoryUnavailable
from coremesh.events import ForwardEvent, decode
from coremesh.history.callers import RedisCallers
from coremesh.history.page import Page
from coremesh.history.recorder import Recorder
from coremesh.history.redis import RedisHistory
from coremesh.history.spool import Spool
from coremesh.types import ORIGIN, StreamId
from tests.events import make_event
from tests.integration.redis.servers import Server, free_port, until
from tests.wait import wait_until

WATCH = """
sentinel monitor mesh 127.0.0.1 {port} 1
sentinel down-after-milliseconds mesh 500
sentinel failover-timeout mesh 4000
sentinel auth-user mesh default
sentinel auth-pass mesh secret
"""


@dataclass
class Watched:
    master: Server
    replica: Server
    sentinel: Server

    @property
    def url(self) -> str:
        dead = free_port()
        return f"redis+sentinel://default:secret@127.0.0.1:{dead},127.0.0.1:{self.sentinel.port}/mesh/0"


def secured(server: Server) -> Server:
    server.client().config_set("masterauth", "secret")
    server.client().config_set("requirepass", "secret")
    server.password = "secret"
    return server


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ExitStack() as stack:

        def run(name: str, *options: str, sentinel: str = "") -> Server:
            server = Server(tmp_path / name, *options, sentinel=sentinel)
            stack.callback(server.kill)
            return server

        master = run("master", "--repl-diskless-sync-delay", "0")
        replica = run("replica", "--replicaof", "127.0.0.1", str(master.port))
        until(lambda: _info(replica)["master_link_status"] == "up", "a copy")
        secured(master)
        secured(replica)
        sentinel = run("sentinel", sentinel=WATCH.format(port=master.port))
        until(lambda: _flags(sentinel) == ["slave"], "a Sentinel that knows the replica")
        yield Watched(master, replica, sentinel)


def _info(server: Server) -> dict[str, Any]:
    client: Any = server.client()
    return client.info("replication")


def _flags(sentinel: Server) -> list[str]:
    found: Any = sentinel.client().execute_command("SENTINEL REPLICAS", "mesh")
    rows = [one if isinstance(one, dict) else dict(zip(one[::2], one[1::2], strict=True)) for one in found]
    return [str(_plain(row).get("flags")) for row in rows]


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        (name.decode() if isinstance(name, bytes) else name): (
            value.decode() if isinstance(value, bytes) else value
        )
        for name, value in row.items()
    }


async def test_appends_go_on_after_the_master_is_killed(watched: Watched, tmp_path: Path) -> None:
    history = RedisHistory(watched.url, 1, timeout=timedelta(seconds=2))
    recorder = Recorder(history, Spool(tmp_path / "spool"), retry_every=timedelta(milliseconds=50))
    callers = RedisCallers(watched.url, 1, pause=timedelta(0))
    events = [make_event({1: 0.5, 2: None}) for _ in range(6)]
    for event in events[:3]:
        await recorder.record(event, None, [])
    assert recorder.waiting == 0
    _, record = await callers.create("someone")
    places = [entry.stream_id for entry in await history.read(ORIGIN, 1000)]
    assert len(places) == 3
    copied: Any = watched.replica.client()
    waiting = asyncio.create_task(_next(history, places[-1]))
    await wait_until(lambda: copied.xlen(history.keys.events) == 3)

    watched.master.kill()
    draining = asyncio.create_task(recorder.run())
    for event in events[3:]:
        await recorder.record(event, None, [])
    await wait_until(lambda: recorder.waiting == 0, timeout=60, why="all are in the new master")

    read = [entry.event.id for entry in await history.read(ORIGIN, 1000)]
    swept: list[str] = []

    def take(page: Page) -> None:
        swept.extend(entry.event.id for entry in page.entries(decode, 0, page.count))

    if await history.sweep(ORIGIN, 10, Page(10), take) is not None:
        assert swept == read
    ids = [event.id for event in events]
    # What was spooled comes in the order of its ids, which are random within a millisecond.
    assert (read[:3], sorted(read)) == (ids[:3], sorted(ids))
    assert _info(watched.replica)["role"] == "master"
    assert copied.xlen(history.keys.events) == 6
    assert (await asyncio.wait_for(waiting, 30)).id == read[3]
    assert [one.id for one in await callers.records()] == [record.id]
    draining.cancel()
    await callers.close()
    await history.close()


async def test_a_failover_by_hand_leaves_nobody_with_the_old_master(watched: Watched) -> None:
    history = RedisHistory(watched.url, 1, timeout=timedelta(seconds=2))
    await history.append(make_event({1: 0.5}), None, [])

    def demoted() -> bool:
        if _info(watched.replica)["role"] == "slave":
            with suppress(redis.ResponseError):  # one is under way, or the replica is not heard yet
                watched.sentinel.client().execute_command("SENTINEL FAILOVER", "mesh")
        return _info(watched.master)["role"] == "slave"

    await wait_until(demoted, timeout=60, every=0.5, why="the old master follows the new one")

    async def appended() -> bool:
        try:
            await history.append(make_event({1: 0.5}), None, [])
        except HistoryUnavailable:
            return False
        return True

    await wait_until(appended, timeout=30)
    assert await history.length() == 2
    await history.close()


async def test_a_master_that_no_sentinel_knows_is_one_kind_of_error(watched: Watched) -> None:
    history = RedisHistory(watched.url.replace("/mesh/", "/other/"), 1, timeout=timedelta(seconds=1))
    with pytest.raises(HistoryUnavailable):
        await history.ping()
    await history.close()


async def _next(history: RedisHistory, after: StreamId) -> ForwardEvent:
    """The first event after a place, waited for as a fold does."""
    while True:
        try:
            found = await history.read(after, 1, timedelta(milliseconds=500))
        except HistoryUnavailable:
            await asyncio.sleep(0.1)
            continue
        if found:
            assert isinstance(found[0].event, ForwardEvent)
            return found[0].event
