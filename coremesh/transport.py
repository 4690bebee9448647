"""HTTP/1.1 between our own services: a transport for httpx on asyncio and httptools.

httpx's own transport looks through all of its connections for every request, so that under load half of a querier's
CPU time went there. This one keeps a stack of idle connections for each service, and reads an answer whole.
For services that trust each other, and for requests that may be sent twice: one that finds its kept connection dead is
sent again. Strangers' servers are for ``services/querier/miners``.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import httptools
import httpx

MAX_ANSWER_BYTES = 64 * 1024 * 1024

Origin = tuple[str, int]
Header = tuple[bytes, bytes]


class HttptoolsTransport(httpx.AsyncBaseTransport):
    """``http`` on kept connections; ``https`` is left to httpx's own transport.

    Of a request's time-outs ``connect`` and ``pool`` mean what they mean to httpx, and ``read`` bounds everything from
    sending the request to the end of its answer. An answer is there as a whole: its stream has been read.
    """

    def __init__(self, *, idle_s: float, most: int = 128, most_idle: int = 32) -> None:
        """At most ``most`` connections to each service, of which ``most_idle`` are kept, for ``idle_s`` at a time.

        To each, so that calls which wait in a slow service are never in the way of calls to the others.
        """
        self._idle_s = idle_s
        self._most_idle = most_idle
        self._idle: dict[Origin, list[_Connection]] = {}
        self._busy: set[_Connection] = set()
        self._most = most
        self._free: dict[Origin, asyncio.Semaphore] = {}
        self._secure: httpx.AsyncHTTPTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and give the whole answer. Raises as httpx's own transport does."""
        if request.url.scheme != "http":
            return await self._handle_secure(request)
        timeouts = cast("dict[str, float | None]", request.extensions.get("timeout", {}))
        body = await request.aread()
        message = b"".join((_head(request), body))
        origin = _origin(request)
        free = self._free.get(origin)
        if free is None:
            free = self._free[origin] = asyncio.Semaphore(self._most)
        await self._enter(free, timeouts.get("pool"), request)
        try:
            connection = self._kept(origin)
            if connection is not None:
                try:
                    return await self._exchange(connection, request, message, timeouts.get("read"))
                except _Untouched:
                    pass  # it had died; nobody has seen the request
            connection = await self._connect(origin, timeouts.get("connect"), request)
            try:
                return await self._exchange(connection, request, message, timeouts.get("read"))
            except _Untouched:
                raise httpx.ReadError("closed before the answer", request=request) from None
        finally:
            free.release()

    async def aclose(self) -> None:
        """Close every connection; requests under way end with ReadError."""
        for connection in (*self._busy, *(c for kept in self._idle.values() for c in kept)):
            connection.close()
        self._idle.clear()
        if self._secure is not None:
            await self._secure.aclose()

    async def _enter(self, free: asyncio.Semaphore, timeout: float | None, request: httpx.Request) -> None:
        if not free.locked():
            await free.acquire()  # does not wait
            return
        try:
            async with asyncio.timeout(timeout):
                await free.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("no connection became free", request=request) from None

    def _kept(self, origin: Origin) -> _Connection | None:
        """An idle connection that still looks alive, the newest first."""
        kept = self._idle.get(origin)
        oldest = asyncio.get_running_loop().time() - self._idle_s
        while kept:
            connection = kept.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin, timeout: float | None, request: httpx.Request) -> _Connection:
        try:
            async with asyncio.timeout(timeout):
                return await _open(*origin)
        except TimeoutError:
            raise httpx.ConnectTimeout(f"no connection within {timeout:g} s", request=request) from None
        except OSError as error:
            raise httpx.ConnectError(str(error), request=request) from error

    async def _exchange(
        self, connection: _Connection, request: httpx.Request, message: bytes, timeout: float | None
    ) -> httpx.Response:
        self._busy.add(connection)
        try:
            answer = await connection.ask(message, timeout)
        except _Untouched:
            raise
        except _TimedOut:
            raise httpx.ReadTimeout("no answer in time", request=request) from None
        except _Broken as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from None
        except ConnectionError as error:
            raise httpx.ReadError(str(error), request=request) from None
        finally:
            self._busy.discard(connection)
            if connection.usable:
                self._keep(_origin(request), connection)
            else:
                connection.close()
        return answer

    def _keep(self, origin: Origin, connection: _Connection) -> None:
        kept = self._idle.setdefault(origin, [])
        connection.idle_since = asyncio.get_running_loop().time()
        kept.append(connection)
        if len(kept) > self._most_idle:
            kept.pop(0).close()

    async def _handle_secure(self, request: httpx.Request) -> httpx.Response:
        if self._secure is None:
            self._secure = httpx.AsyncHTTPTransport(trust_env=False)
        return await self._secure.handle_async_request(request)


async def _open(host: str, port: int) -> _Connection:
    """Connect to the first address of a name that takes it. Raises OSError."""
    loop = asyncio.get_running_loop()
    # By ourselves: where uvloop connects to a name and is told to stop, it leaves the look-up alone, and reports its
    # failure later as an error that nobody retrieved. Names of services that are away fail slowly.
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    refused: OSError | None = None
    for family, _, _, _, address in addresses:
        try:
            _, connection = await loop.create_connection(_Connection, str(address[0]), port, family=family)
        except OSError as error:
            refused = error
        else:
            return connection
    raise refused or OSError(f"{host} has no address")


class _Untouched(ConnectionError):
    """A kept connection was dead before a byte of the answer."""


class _TimedOut(Exception):
    """No whole answer in time."""


class _Broken(Exception):
    """What came is no answer."""


class _Whole(httpx.Response):
    """An answer that is there already. httpx would look for its length, encode it as a stream and read that: six times
    as long, for the same bytes."""

    def __init__(self, status: int, headers: list[Header], body: bytes) -> None:
        super().__init__(status, headers=headers, stream=httpx.ByteStream(body))
        self._whole = body

    @property
    def content(self) -> bytes:
        """See httpx. No encoding is asked for, and none is undone."""
        return self._whole

    async def aread(self) -> bytes:
        """See httpx."""
        return self._whole


class _Connection(asyncio.Protocol):
    """A socket to a service, used by one request at a time."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[httpx.Response] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._used = False
        self._heard = False
        self._keep = True
        self._headers: list[Header] = []
        self._body: list[bytes] = []
        self._bytes = 0

    @property
    def usable(self) -> bool:
        """Open and without a request."""
        return (
            self._keep
            and self._waiter is None
            and self._transport is not None
            and not self._transport.is_closing()
        )

    async def ask(self, message: bytes, timeout: float | None) -> httpx.Response:
        """Send ``message`` and give its answer. Raises _Untouched, _TimedOut, _Broken, ConnectionError."""
        if self._transport is None:
            raise _Untouched("closed")
        self._heard = False
        self._headers, self._body, self._bytes = [], [], 0
        waiter = self._waiter = self._loop.create_future()
        if timeout is not None:
            self._timer = self._loop.call_later(timeout, self._fail, _TimedOut())
        self._transport.write(message)
        try:
            return await waiter
        finally:
            if not waiter.done() or waiter.cancelled():
                self._waiter = None
                self.close()  # the answer would come to whoever is next
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def close(self) -> None:
        """Drop the connection."""
        self._keep = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._heard = True
        if self._waiter is None:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(_Broken(type(error).__name__))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        untouched = self._used and not self._heard
        self._fail((_Untouched if untouched else ConnectionError)(str(exc or "closed before the answer")))

    # -- the parser's callbacks ------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._headers.append((name, value))

    def on_body(self, chunk: bytes) -> None:
        """See httptools."""
        self._bytes += len(chunk)
        if self._bytes > MAX_ANSWER_BYTES:
            self._fail(_Broken(f"an answer over {MAX_ANSWER_BYTES} bytes"))
        else:
            self._body.append(chunk)

    def on_message_complete(self) -> None:
        """See httptools. An interim answer is not the answer."""
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = []
            return
        self._keep = self._keep and self._parser.should_keep_alive()
        self._used = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(_Whole(status, self._headers, b"".join(self._body)))

    def _fail(self, error: Exception) -> None:
        waiter, self._waiter = self._waiter, None
        self.close()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)


def _origin(request: httpx.Request) -> Origin:
    return request.url.host, request.url.port or 80


def _head(request: httpx.Request) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    return b"\r\n".join((*lines, b"", b""))
