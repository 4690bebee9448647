"""Sockets: opened when needed, kept for a moment, never more than allowed."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import OrderedDict, deque
from time import monotonic
from typing import Protocol

from coremesh.wire.status import Status
from services.querier.miners.connection import READ_BYTES, Connection
from services.querier.miners.limits import MinerLimits, Target, Tls

_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))
"""No socket for want of something of this machine's (file descriptors, memory, ports): no miner answers for that.
An unreachable network is not among them: a miner may choose an address that is."""

Key = tuple[str, str, int, Tls | None]
"""What may share a connection: one hotkey at one address."""


class Claimant(Protocol):
    """A request that wants a connection."""

    @property
    def target(self) -> Target:
        """Where to."""
        ...

    @property
    def finished(self) -> bool:
        """Whether it has given up meanwhile."""
        ...

    def on_connecting(self, task: asyncio.Task[None]) -> None:
        """A socket is being opened; the request cancels the task when it gives up."""
        ...

    def on_connection(self, connection: Connection) -> None:
        """Here it is."""
        ...

    def on_no_connection(self, status: Status, detail: str) -> None:
        """There will be none."""
        ...


def client_context() -> ssl.SSLContext:
    """TLS 1.2 or later without a certificate authority: miners' certificates are their own, and are pinned or not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def key_of(target: Target) -> Key:
    """The key of the connections to ``target``."""
    return target.hotkey, target.host, target.port, target.tls


class Pool:
    """All sockets of one client, on one event loop."""

    def __init__(self, limits: MinerLimits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._context = client_context()
        self._open: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._idle_by_key: dict[Key, list[Connection]] = {}
        self._waiting: deque[Claimant] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._empty: asyncio.Future[None] | None = None

    @property
    def sockets(self) -> int:
        """Sockets open or being opened."""
        return len(self._open) + len(self._connecting)

    @property
    def idle(self) -> int:
        """Sockets kept for later."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests waiting for a socket, those that have given up included."""
        return len(self._waiting)

    def take(self, target: Target) -> Connection | None:
        """A kept connection that still looks alive, newest first."""
        kept = self._idle_by_key.get(key_of(target))
        oldest = monotonic() - self._limits.keep_alive_s
        while kept:
            connection = kept[-1]
            self._forget(connection)
            if connection.usable and connection.idle_since > oldest and not connection.spoke_unasked:
                return connection
            connection.close()
        return None

    def connect(self, claimant: Claimant) -> None:
        """Open a socket for ``claimant``, or let it wait for one."""
        if self._closed:
            claimant.on_no_connection(Status.NOT_SENT, "the client is closed")
        elif self.sockets < self._limits.max_sockets or self._evict():
            task = self._loop.create_task(self._connect(claimant))
            self._connecting.add(task)
            task.add_done_callback(self._connected)
            claimant.on_connecting(task)
        elif len(self._waiting) < self._limits.max_waiting:
            self._waiting.append(claimant)
        else:
            claimant.on_no_connection(Status.NOT_SENT, "no socket is free")

    async def _connect(self, claimant: Claimant) -> None:
        target = claimant.target
        timeout = self._limits.connect_timeout_s
        tls = target.tls is not None
        connection: Connection | None = None
        try:
            async with asyncio.timeout(timeout):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(
                        target,
                        self._limits,
                        self._buffer,
                        self._on_connection_idle,
                        self._on_connection_closed,
                    ),
                    target.host,
                    target.port,
                    ssl=self._context if tls else None,
                    server_hostname=target.host if tls else None,
                    ssl_handshake_timeout=timeout if tls else None,
                )
        except TimeoutError:
            claimant.on_no_connection(Status.TIMEOUT, "connect")
            return
        except (OSError, ssl.SSLError, UnicodeError) as error:
            number = error.errno if isinstance(error, OSError) else None
            if number is not None and number in _OURS:
                claimant.on_no_connection(Status.NOT_SENT, errno.errorcode[number])
            else:
                claimant.on_no_connection(Status.REFUSED, type(error).__name__)
            return
        if connection.refused is not None:
            claimant.on_no_connection(*connection.refused)
            return
        self._open.add(connection)
        if not connection.usable:
            self._open.discard(connection)
            claimant.on_no_connection(Status.REFUSED, "closed at once")
        elif connection.spoke_unasked:
            connection.close()
            claimant.on_no_connection(Status.MALFORMED, "spoke before it was asked")
        elif claimant.finished:
            self._on_connection_idle(connection)
        else:
            claimant.on_connection(connection)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler(
                {"message": "a miner connection failed oddly", "exception": error}
            )
        self._serve_waiting()
        self._note_empty()

    def _on_connection_idle(self, connection: Connection) -> None:
        if self._closed:
            connection.close()
            return
        connection.idle_since = monotonic()
        connection.kept = True
        self._idle[connection] = None
        self._idle_by_key.setdefault(key_of(connection.target), []).append(connection)
        if self._waiting:
            self._serve_waiting()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._limits.keep_alive_s, self._sweep)

    def _on_connection_closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._forget(connection)
        if self._waiting:
            self._serve_waiting()
        self._note_empty()

    def _forget(self, connection: Connection) -> None:
        if connection in self._idle:
            del self._idle[connection]
            key = key_of(connection.target)
            kept = self._idle_by_key[key]
            kept.remove(connection)
            if not kept:
                del self._idle_by_key[key]

    def _evict(self) -> bool:
        """Close the connection that has been idle longest, if there is one."""
        if not self._idle:
            return False
        connection = next(iter(self._idle))
        self._forget(connection)
        self._open.discard(connection)
        connection.close()
        return True

    def _serve_waiting(self) -> None:
        while self._waiting and (self.sockets < self._limits.max_sockets or self._idle):
            claimant = self._waiting.popleft()
            if not claimant.finished:
                self.connect(claimant)

    def _sweep(self) -> None:
        self._sweeper = None
        oldest = monotonic() - self._limits.keep_alive_s
        while self._idle:
            connection = next(iter(self._idle))
            left = connection.idle_since - oldest
            if left > 0:
                self._sweeper = self._loop.call_later(left + 0.01, self._sweep)
                return
            self._forget(connection)
            connection.close()

    async def close(self) -> None:
        """Close every socket and wait until none is left."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        waiting, self._waiting = self._waiting, deque()
        for claimant in waiting:
            if not claimant.finished:
                claimant.on_no_connection(Status.NOT_SENT, "the client is closed")
        for task in tuple(self._connecting):
            task.cancel()
        for connection in tuple(self._open):
            connection.close()
        if self._open or self._connecting:
            self._empty = self._loop.create_future()
            await self._empty

    def _note_empty(self) -> None:
        if self._empty is not None and not self._open and not self._connecting and not self._empty.done():
            self._empty.set_result(None)
