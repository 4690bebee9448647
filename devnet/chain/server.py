"""The node: websocket connections, the block clock, and saving."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from http import HTTPStatus
from itertools import count
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from devnet.chain import devnet_rpc, rpc, saved
from devnet.chain.chain import Chain
from devnet.chain.options import Drand
from devnet.chain.rpc import RpcError

MAX_MESSAGE_BYTES = 1 << 20
MAX_BATCH = 256
MAX_CONNECTIONS = 256
# Notifications a connection may leave unread; then it is closed.
MAX_UNSENT = 1_024
_SAVE_EVERY_S = 1.0

log = logging.getLogger(__name__)


def _alive(client: ServerConnection, request: Request) -> Response | None:
    """Answer a health check; everybody else gets a websocket."""
    return client.respond(HTTPStatus.OK, "alive\n") if request.path == "/healthz" else None


class Connection:
    """One client: replies in order, notifications as they come, both through one bounded queue."""

    def __init__(self, client: ServerConnection) -> None:
        self._socket = client
        self._unsent: asyncio.Queue[str] = asyncio.Queue(MAX_UNSENT)
        self._ids = count(1)
        self.subscriptions: dict[str, str] = {}

    @property
    def full(self) -> bool:
        """Whether the client leaves so much unread that nothing more is queued."""
        return self._unsent.full()

    def subscribe(self, kind: str) -> str:
        """Open a subscription; see `rpc.Session`."""
        if len(self.subscriptions) >= rpc.MAX_SUBSCRIPTIONS:
            raise RpcError(rpc.INVALID_REQUEST, f"at most {rpc.MAX_SUBSCRIPTIONS} subscriptions a connection")
        subscription = f"{id(self):x}-{next(self._ids)}"
        self.subscriptions[subscription] = kind
        return subscription

    def unsubscribe(self, subscription: str) -> bool:
        """Close a subscription."""
        return self.subscriptions.pop(subscription, None) is not None

    def notify(self, subscription: str, method: str, result: Any) -> None:
        """Queue a notification for an open subscription; a client that does not read is cut off."""
        if subscription not in self.subscriptions:
            return
        params = {"subscription": subscription, "result": result}
        try:
            self._unsent.put_nowait(_text({"jsonrpc": "2.0", "method": method, "params": params}))
        except asyncio.QueueFull:
            self.abort()

    def notify_all(self, kind: str, result: Any) -> None:
        """Notify every subscription of a kind."""
        for subscription in [key for key, value in self.subscriptions.items() if value == kind]:
            self.notify(subscription, kind, result)

    def abort(self) -> None:
        """Drop the connection without a word."""
        self.subscriptions.clear()
        self._socket.transport.abort()

    async def put(self, reply: Any) -> None:
        """Queue a reply, waiting for a client that reads slowly."""
        await self._unsent.put(_text(reply))

    async def send(self) -> None:
        """Send what is queued until the connection ends."""
        while True:
            await self._socket.send(await self._unsent.get())


def _text(message: Any) -> str:
    return msgspec.json.encode(message).decode()


class Server:
    """Serves one chain until `stop` is called; the state is saved before `run` returns."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.gate = devnet_rpc.Gate()
        self.connections: set[Connection] = set()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to save and return."""
        self._stop.set()

    async def run(self, bound: socket.socket) -> None:
        """Listen on a bound socket and make blocks until `stop`."""
        options = self.chain.options
        await self._save(clean=False)
        async with serve(
            self._client,
            sock=bound,
            max_size=MAX_MESSAGE_BYTES,
            compression=None,
            max_queue=16,
            ping_interval=None,
            close_timeout=1,
            logger=log,
            process_request=_alive,
        ):
            at = f"{options.host}:{options.port}"
            print(f"chain ready ws://{at} netuid {options.netuid} block {self.chain.number}", flush=True)
            tasks = {asyncio.create_task(self._make_blocks()), asyncio.create_task(self._stop.wait())}
            if options.drand is Drand.BEACON:
                tasks.add(asyncio.create_task(self._fetch_signatures()))
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            await self._save(clean=True)
            # A node that goes away just goes away: a closing handshake would end the SDK's session for good.
            for connection in list(self.connections):
                connection.abort()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _make_blocks(self) -> None:
        loop, chain = asyncio.get_running_loop(), self.chain
        interval = chain.options.block_time_s
        due, saved_at = loop.time() + interval, loop.time()
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due = max(due + interval, loop.time())
            if not self.gate.makes_blocks:
                continue
            notices = chain.produce()
            header = chain.blocks.head.header()
            # What a client is told has happened must still have happened after a kill.
            if chain.unsaved or loop.time() - saved_at > _SAVE_EVERY_S:
                await self._save(clean=False)
                saved_at = loop.time()
            for notice in notices:
                notice()
            for connection in list(self.connections):
                connection.notify_all("chain_newHead", header)
                connection.notify_all("chain_finalizedHead", header)

    async def _fetch_signatures(self) -> None:
        while True:
            await self.chain.beacon.fetch(time.time())
            await asyncio.sleep(1.0)

    async def _save(self, *, clean: bool) -> None:
        self.chain.unsaved = False
        path = self.chain.options.state_file
        if path is not None:
            await asyncio.to_thread(saved.store, path, self.chain.saved(clean=clean))

    # -- clients ---------------------------------------------------------------------------------

    async def _client(self, client: ServerConnection) -> None:
        if len(self.connections) >= MAX_CONNECTIONS:
            await client.close(1013, "too many connections")
            return
        connection = Connection(client)
        self.connections.add(connection)
        # Whichever ends ends the other: a reply to a client that has gone is not waited with, nor a sender of none.
        both = [
            asyncio.create_task(connection.send()),
            asyncio.create_task(self._receive(client, connection)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.connections.discard(connection)
            connection.subscriptions.clear()
            for task in both:
                task.cancel()
            results = await asyncio.gather(*both, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ConnectionClosed):
                raise result

    async def _receive(self, client: ServerConnection, connection: Connection) -> None:
        async for message in client:
            reply = await self._reply(connection, message)
            if reply is not None:
                await connection.put(reply)

    async def _reply(self, connection: Connection, message: str | bytes) -> Any:
        try:
            request = msgspec.json.decode(message)
        except (msgspec.DecodeError, RecursionError) as problem:
            return _failed(None, RpcError(rpc.PARSE_ERROR, f"Parse error: {problem}"))
        if isinstance(request, list):
            if not 0 < len(request) <= MAX_BATCH:
                return _failed(
                    None, RpcError(rpc.INVALID_REQUEST, f"a batch holds 1 to {MAX_BATCH} requests")
                )
            replies = [await self._answer(connection, one) for one in request]
            return [reply for reply in replies if reply is not None] or None
        return await self._answer(connection, request)

    async def _answer(self, connection: Connection, request: Any) -> dict[str, Any] | None:
        method = request.get("method") if isinstance(request, dict) else None
        params = request.get("params", []) if isinstance(request, dict) else None
        if not isinstance(method, str) or not isinstance(params, list):
            return _failed(None, RpcError(rpc.INVALID_REQUEST, "Invalid request"))
        try:
            if method.startswith("devnet_"):
                result = devnet_rpc.call(self.chain, self.gate, method, params)
            else:
                await self.gate.answering.wait()
                result = rpc.call(self.chain, connection, method, params)
        except RpcError as problem:
            return _failed(request.get("id"), problem)
        return {"jsonrpc": "2.0", "id": request["id"], "result": result} if "id" in request else None


def _failed(request_id: Any, problem: RpcError) -> dict[str, Any]:
    error: dict[str, Any] = {"code": problem.code, "message": str(problem)}
    if problem.data is not None:
        error["data"] = problem.data
    return {"jsonrpc": "2.0", "id": request_id, "error": error}
