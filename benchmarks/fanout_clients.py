"""The clients that are compared, each in its best form, behind one call: ask K hosts once."""

from __future__ import annotations

import asyncio
from typing import Protocol

import aiohttp
import msgspec

from benchmarks.fanout_hosts import address
from coremesh.wire.adapters import BtauthAdapter, MinerRequest
from coremesh.wire.btauth import Signer
from coremesh.wire.keys import keypair_from_uri
from coremesh.wire.status import Status
from services.querier.miners import MinerClient, MinerLimits, Target

REQUEST = MinerRequest(("user",), ("A prompt of a kilobyte. " * 40,), 10.0)


def hotkeys(k: int) -> list[str]:
    return [keypair_from_uri(f"//Miner/{i}").ss58_address for i in range(k)]


class Answer(msgspec.Struct):
    completion: str | None = None


DECODE = msgspec.json.Decoder(Answer).decode


class Client(Protocol):
    async def open(self) -> None: ...
    async def ask(self) -> int:
        """Ask all once; returns how many answered well."""
        ...

    async def close(self) -> None: ...


class Ours:
    def __init__(self, k: int, port: int, signer: Signer) -> None:
        self.targets = [Target(i, h, address(i), port) for i, h in enumerate(hotkeys(k))]
        limits = MinerLimits(allow_loopback=True, keep_alive_s=60)
        self.client = MinerClient(BtauthAdapter(signer), signer.hotkey, limits)

    async def open(self) -> None:
        await self.client.__aenter__()

    async def ask(self) -> int:
        return sum(a.status is Status.OK for a in await self.client.query(self.targets, REQUEST))

    async def close(self) -> None:
        await self.client.__aexit__(None, None, None)


class Aiohttp:
    """One session, no connection limit, no cookies, no decompression, no redirects; the body digested once."""

    def __init__(self, k: int, port: int, signer: Signer) -> None:
        self.targets = [(h, f"http://{address(i)}:{port}/forward") for i, h in enumerate(hotkeys(k))]
        self.adapter = BtauthAdapter(signer)
        self.signer = signer

    async def open(self) -> None:
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=10),
            skip_auto_headers=("user-agent",),
        )

    async def ask(self) -> int:
        body = self.adapter.forward(REQUEST).body
        signed = self.signer.prepare("POST", "/forward", body)
        return sum(await asyncio.gather(*(self.one(signed, body, h, url) for h, url in self.targets)))

    async def one(self, signed, body: bytes, hotkey: str, url: str) -> bool:
        headers = signed.headers(hotkey)
        headers["content-type"] = "application/json"
        headers["accept-encoding"] = "identity"
        async with self.session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status == 200 and bool(DECODE(await response.read()).completion)

    async def close(self) -> None:
        await self.session.close()


class _Raw(asyncio.Protocol):
    def __init__(self) -> None:
        self.done: asyncio.Future[bytes] | None = None
        self.data = b""

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        at = self.data.find(b"\r\n\r\n")
        if at > 0 and self.data.endswith(b"}") and self.done is not None:
            done, self.done = self.done, None
            done.set_result(self.data[at + 4 :])
            self.data = b""


class Floor:
    """Bytes on asyncio sockets and a signature, with no HTTP parser and no bound: less cannot be done."""

    def __init__(self, k: int, port: int, signer: Signer) -> None:
        self.keys = hotkeys(k)
        self.port = port
        self.adapter = BtauthAdapter(signer)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self.connections = [
            (await loop.create_connection(_Raw, address(i), self.port))[1] for i in range(len(self.keys))
        ]

    async def ask(self) -> int:
        loop = asyncio.get_running_loop()
        call = self.adapter.forward(REQUEST)
        head = f"POST /forward HTTP/1.1\r\nhost: x\r\ncontent-length: {len(call.body)}\r\n".encode()
        waiting = []
        for connection, hotkey in zip(self.connections, self.keys, strict=True):
            connection.done = loop.create_future()
            waiting.append(connection.done)
            connection.transport.write(head + call.headers(hotkey) + b"\r\n" + call.body)
        return sum([bool(DECODE(await answer).completion) for answer in waiting])

    async def close(self) -> None:
        for connection in self.connections:
            connection.transport.abort()


CLIENTS: dict[str, type[Ours] | type[Aiohttp] | type[Floor]] = {
    "ours": Ours,
    "aiohttp": Aiohttp,
    "floor": Floor,
}
