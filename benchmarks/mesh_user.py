"""A user on one kept connection who costs as little as can be: on few cores its own work would delay what it measures.

Answers are kept as bytes, to be read when the load is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

TIMEOUT_S = 30.0


class NotAnswered(Exception):
    """The connection broke, or nothing came in time."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer, and the seconds from the request's first byte (or from connecting) to the answer's last."""

    status: int
    body: bytes
    wall_s: float


class User:
    """POSTs JSON to one path, one request at a time."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        given = {"host": parts.netloc, "content-type": "application/json", **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self._head = f"POST {parts.path or '/'} HTTP/1.1\r\n{lines}content-length: ".encode()
        self._connection: _Connection | None = None

    async def ask(self, body: bytes) -> Heard:
        """Raises NotAnswered. A connection that the server closed while it was idle is replaced."""
        began = time.perf_counter()
        request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._connection is None or self._connection.closed:
                    loop = asyncio.get_running_loop()
                    _, self._connection = await loop.create_connection(_Connection, self._host, self._port)
                status, answer, ended = await self._connection.exchange(request)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            self.close()
            raise NotAnswered(type(error).__name__) from None
        return Heard(status, answer, ended - began)

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[tuple[int, bytes, float]] | None = None
        self._body: list[bytes] = []

    async def exchange(self, request: bytes) -> tuple[int, bytes, float]:
        """Status, body, and when its last byte had come."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._body = []
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._settle(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._settle(ConnectionResetError("closed before the answer"))

    def on_body(self, chunk: bytes) -> None:
        self._body.append(chunk)

    def on_message_complete(self) -> None:
        ended = time.perf_counter()
        if not self._parser.should_keep_alive():
            self.closed = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result((self._parser.get_status_code(), b"".join(self._body), ended))

    def _settle(self, error: Exception) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
