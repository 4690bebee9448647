"""Miners as real servers on 127.x: each test writes the bytes that its miner sends."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from coremesh.wire.keys import keypair_from_uri
from services.querier.miners import Target, Tls

TEXT = "A perfectly ordinary answer."
BODY = json.dumps({"completion": TEXT}).encode()


@dataclass
class Asked:
    """One request as the miner saw it."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class Visit:
    """A connection to a miner."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    asked: list[Asked]

    async def request(self) -> Asked:
        """The next request; IncompleteReadError when the client has gone."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.lower(): value for name, value in (item.split(": ", 1) for item in rest)}
        asked = Asked(
            line, headers, await self.reader.readexactly(int(headers["content-length"])), self.number
        )
        self.asked.append(asked)
        return asked

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Play = Callable[[Visit], Awaitable[None]]


def answer(
    body: bytes = BODY, *, status: str = "200 OK", content_type: str = "application/json", more: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def saying(*messages: bytes, close: bool = False) -> Play:
    """A miner that answers each request with these bytes, one write each."""

    async def play(visit: Visit) -> None:
        while True:
            await visit.request()
            for message in messages:
                await visit.send(message)
            if close:
                return

    return play


@dataclass
class Miner:
    target: Target
    asked: list[Asked]
    server: asyncio.Server
    visits: dict[asyncio.StreamReader, asyncio.Task[None] | None] = field(default_factory=dict)
    sockets: list[Any] = field(default_factory=list[Any])
    """Its ends of the open connections, in order."""

    @property
    def open(self) -> int:
        """Connections that the client has not closed."""
        return sum(not reader.at_eof() for reader in self.visits)


class Stage:
    """Starts miners and stops them."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._miners: list[Miner] = []

    async def miner(
        self, play: Play, *, host: str = "", context: ssl.SSLContext | None = None, tls: Tls | None = None
    ) -> Miner:
        number = next(self._numbers)
        asked: list[Asked] = []
        numbers = itertools.count()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            miner.visits[reader] = asyncio.current_task()
            socket = writer.get_extra_info("socket")
            miner.sockets.append(socket)
            try:
                await play(Visit(reader, writer, next(numbers), asked))
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
                pass
            finally:
                del miner.visits[reader]
                miner.sockets.remove(socket)
                writer.close()

        server = await asyncio.start_server(serve, host or f"127.7.0.{number}", 0, ssl=context)
        address, port = server.sockets[0].getsockname()[:2]
        target = Target(number, keypair_from_uri(f"//Miner{number}").ss58_address, address, port, tls)
        miner = Miner(target, asked, server)
        self._miners.append(miner)
        return miner

    async def close(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        for miner in self._miners:
            miner.server.close()
            tasks += [task for task in miner.visits.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it never came to pass")
        await asyncio.sleep(0.005)
