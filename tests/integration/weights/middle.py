"""A man in the middle between a chain's node and its clients, who holds messages back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from devnet.chain.testing import free_port

SUBMITS = "author_submitAndWatchExtrinsic"


class Middle:
    """Passes on what clients and node say, less what ``holds`` says of a request's method; that waits for release."""

    def __init__(self, node_url: str, port: int) -> None:
        self._node_url = node_url
        self.url = f"ws://127.0.0.1:{port}"
        self.holds: Callable[[str], bool] = lambda _method: False
        self.held: list[tuple[ServerConnection, str]] = []
        """Requests held back, oldest first."""
        self.muted = False
        """Connections stay open, and nothing more is said on them in either way."""
        self.clients = 0
        """Connections taken so far."""

    async def release(self) -> list[Any]:
        """Give the node what was held back, on a connection of our own, and whoever asked what it says to each."""
        requests, self.held = self.held, []
        answers: list[Any] = []
        async with connect(self._node_url, max_size=None) as node:
            for client, request in requests:
                await node.send(request)
                wanted = json.loads(request)["id"]
                while (answer := json.loads(await node.recv())).get("id") != wanted:
                    pass
                answers.append(answer)
                with contextlib.suppress(ConnectionClosed):
                    await client.send(json.dumps(answer))
        return answers

    async def handle(self, client: ServerConnection) -> None:
        """One client, for as long as it and the node stay."""
        self.clients += 1
        async with connect(self._node_url, max_size=None) as node:
            ways = {
                asyncio.ensure_future(self._up(client, node)),
                asyncio.ensure_future(self._down(client, node)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await asyncio.gather(*ways)

    async def _up(self, client: ServerConnection, node: ClientConnection) -> None:
        async for message in client:
            text = message if isinstance(message, str) else message.decode()
            if self.holds(json.loads(text).get("method", "")):
                self.held.append((client, text))
            elif not self.muted:
                await node.send(text)

    async def _down(self, client: ServerConnection, node: ClientConnection) -> None:
        async for message in node:
            if not self.muted:
                await client.send(message)


@asynccontextmanager
async def middle(node_url: str) -> AsyncIterator[Middle]:
    """A man in the middle, listening on a port of his own."""
    port = free_port()
    man = Middle(node_url, port)
    async with serve(man.handle, "127.0.0.1", port, max_size=None):
        yield man
