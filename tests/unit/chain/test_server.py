"""The node's places for clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from devnet.chain.rpc import MAX_KEYS
from devnet.chain.server import Server
from tests.unit.chain.conftest import Bench
from tests.wait import wait_until


async def test_a_client_that_read_nothing_and_left_gives_its_place_back(make_bench: Callable[..., Bench]):
    bound = socket.create_server(("127.0.0.1", 0))
    server = Server(make_bench().chain)
    running = asyncio.create_task(server.run(bound))
    request = json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "state_getKeysPaged", "params": ["0x", MAX_KEYS]}
    )
    client = await connect(f"ws://127.0.0.1:{bound.getsockname()[1]}", compression=None, max_queue=1)

    async def ask_for_ever() -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await client.send(request)

    asking = asyncio.create_task(ask_for_ever())
    try:
        (connection,) = await wait_until(lambda: list(server.connections))
        await wait_until(lambda: connection.full, timeout=60)
        client.transport.abort()
        await wait_until(lambda: not server.connections)
    finally:
        asking.cancel()
        server.stop()
        await running
