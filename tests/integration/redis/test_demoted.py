"""One address for whichever server is the master, as managed Redis has it; the old one keeps its connections open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from coremesh.events import ForwardEvent
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN, hotkey_digest
from tests.events import make_event
from tests.integration.redis.servers import Server, until


class Address:
    """Leads new connections to ``port``; those that there are stay where they lead."""

    def __init__(self, port: int) -> None:
        self.port = port
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


def replication(server: Server) -> dict[str, Any]:
    client: Any = server.client()
    return client.info("replication")


async def test_a_master_that_became_a_replica_is_left(servers: tuple[Server, Server]) -> None:
    master, replica = servers
    address = Address(master.port)
    listening = await asyncio.start_server(address.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    history = RedisHistory(f"redis://127.0.0.1:{port}/0", 1)
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
    listening.close()


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
