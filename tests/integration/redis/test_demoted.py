"""One address for whichever server is the master, as managed Redis has it; the old one keeps its connections open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from coremesh.events import ForwardEvent
from coremesh.folding import FoldRunner
from coremesh.history.protocol import Entry
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN, hotkey_digest
from tests.events import make_event
from tests.integration.redis.servers import Server, until
from tests.wait import wait_until


class Address:
    """Leads new connections to ``port``; those that there are stay where they lead."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = ""
        self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream, to_redis = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(_pass(reader, to_redis), _pass(upstream, writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[Server, Server]]:
    master = Server(tmp_path / "master", "--repl-diskless-sync-delay", "0")
    replica = Server(tmp_path / "replica", "--replicaof", "127.0.0.1", str(master.port))
    yield master, replica
    master.kill()
    replica.kill()


@pytest.fixture
async def address(servers: tuple[Server, Server]) -> AsyncIterator[Address]:
    found = Address(servers[0].port)
    listening = await asyncio.start_server(found.handle, "127.0.0.1", 0)
    found.url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    yield found
    listening.close()


def replication(server: Server) -> dict[str, Any]:
    client: Any = server.client()
    return client.info("replication")


async def test_a_master_that_became_a_replica_is_left(
    servers: tuple[Server, Server], address: Address
) -> None:
    master, replica = servers
    history = RedisHistory(address.url, 1)
    events = [make_event({1: 0.5}) for _ in range(3)]
    await history.append(events[0], None, [])
    copied: Any = replica.client()
    await asyncio.to_thread(until, lambda: copied.xlen(history.keys.events) == 1, "the replica has the event")

    replica.client().replicaof("NO", "ONE")
    master.client().replicaof("127.0.0.1", str(replica.port))
    assert replication(master)["role"] == "slave"
    address.port, before = replica.port, address.connections
    for event in events[1:]:
        await history.append(event, None, [])

    assert address.connections == before + 1
    found = [entry.event for entry in await history.read(ORIGIN, 10)]
    assert [event.id for event in found if isinstance(event, ForwardEvent)] == [event.id for event in events]
    assert copied.xlen(history.keys.events) == 3
    await history.close()


class Ids:
    """A fold: which events there were."""

    format = "ids-1"

    def initial(self) -> list[str]:
        return []

    def load(self, state: bytes) -> list[str]:
        return msgspec.json.decode(state, type=list[str])

    def dump(self, state: list[str]) -> bytes:
        return msgspec.json.encode(state)

    async def apply(self, state: list[str], entries: list[Entry]) -> list[str]:
        return [*state, *(entry.event.id for entry in entries)]


async def test_what_a_failover_lost_is_not_counted(servers: tuple[Server, Server], address: Address) -> None:
    master, replica = servers
    history = RedisHistory(address.url, 1)
    runner = FoldRunner(
        history,
        Ids(),
        name="ids",
        role="ids",
        holder="me",
        save_every=timedelta(seconds=1),
        ttl=timedelta(minutes=1),
    )
    running = asyncio.create_task(runner.run())
    kept, lost, later = make_event({1: 0.5}), make_event({1: 0.5}), make_event({1: 0.5})

    async def saved() -> list[str]:
        found = await history.load("ids")
        return Ids().load(found.state) if found else []

    await history.append(kept, None, [])
    await wait_until(lambda: has(saved, [kept.id]))
    copied: Any = replica.client()
    await asyncio.to_thread(until, lambda: copied.exists(history.keys.checkpoint("ids")) == 1, "a copy")
    replica.client().replicaof("NO", "ONE")
    place = await history.append(lost, None, [])
    await wait_until(lambda: runner.status.last_id == place)

    address.port = replica.port
    master.client().client_kill_filter(_type="normal", skipme=True)
    await history.append(later, None, [])

    # It leads on by the lease that the replica has too, with the state that the replica has.
    await wait_until(lambda: has(saved, [kept.id, later.id]))
    found = [entry.event for entry in await history.read(ORIGIN, 10)]
    assert [event.id for event in found if isinstance(event, ForwardEvent)] == [kept.id, later.id]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await history.close()


async def has(look: Callable[[], Awaitable[list[str]]], wanted: list[str]) -> bool:
    return await look() == wanted


async def test_hotkeys_of_before_they_had_a_time_are_forgotten_later(redis_url: str) -> None:
    history = RedisHistory(redis_url, 1)
    client: Any = redis.Redis.from_url(redis_url)
    client.hset(history.keys.hotkeys, mapping={str(n): f"hotkey {n}" for n in range(2500)})
    assert await history.forget_hotkeys([7]) == 0
    assert client.zcard(history.keys.announced) == 2500
    await asyncio.sleep(0.005)
    assert await history.forget_hotkeys([7], timedelta(0)) == 2499
    assert await history.resolve([6, 7]) == {7: "hotkey 7"}
    assert (client.hlen(history.keys.hotkeys), client.zcard(history.keys.announced)) == (1, 1)
    await history.close()


async def test_hotkeys_that_a_failover_lost_come_again(redis_url: str) -> None:
    history = RedisHistory(redis_url, 1, known_for=timedelta(milliseconds=50))
    hotkey = "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM"
    digest = hotkey_digest(hotkey)
    await history.append(make_event({1: 0.5}), None, [hotkey])
    redis.Redis.from_url(redis_url).delete(history.keys.hotkeys)
    assert await history.resolve([digest]) == {}
    await asyncio.sleep(0.06)
    await history.append(make_event({1: 0.5}), None, [hotkey])
    assert await history.resolve([digest]) == {digest: hotkey}
    await history.close()
