"""K miner hosts for the fan-out benchmark, each on its own 127.x address: a process of its own.

``python -m benchmarks.fanout_hosts K slow_ms fast_ms``: prints the port, then serves until its standard input closes.
Host i sleeps a fixed time between ``fast_ms`` and ``slow_ms`` (both 0: it answers at once), so that the slowest of a
batch is known. It answers any path with the same 300 bytes of JSON, and speaks just enough HTTP for that.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial

import uvloop

BODY = json.dumps({"completion": "An answer of ordinary length. " * 9 + "end"}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


def address(i: int) -> str:
    return f"127.11.{i // 250}.{i % 250 + 1}"


class Host(asyncio.Protocol):
    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, separator, rest = self.buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            if self.delay_s:
                asyncio.get_running_loop().call_later(self.delay_s, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


async def serve(k: int, slow_ms: float, fast_ms: float) -> None:
    loop = asyncio.get_running_loop()
    port = 0
    for i in range(k):
        delay_ms = fast_ms + (slow_ms - fast_ms) * i / max(1, k - 1)
        server = await loop.create_server(partial(Host, delay_ms / 1000), address(i), port, backlog=64)
        port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
