"""One HTTP request and its answer, on bare ASGI: bounded reads, and answers of any shape, fair or foul."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from coremesh.errors import TooLong

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 1024 * 1024


class Exchange:
    """A request to a resident, and the way to answer it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        query = scope["query_string"]
        self.target: str = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        """The request target as sent, with its query."""
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        """Names in lower case."""
        self._receive = receive
        self._send = send

    async def body(self) -> bytes:
        """The raw body. Raises TooLong beyond a megabyte."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError("the caller has gone")
            part = message.get("body", b"")
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise TooLong(f"the body is over {MAX_BODY_BYTES} bytes")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def still_there_after(self, seconds: float) -> bool:
        """Wait; False at once when the caller goes. For use after ``body``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
                return False
        return True

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """Send the head."""
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def send(self, part: bytes, more: bool = True) -> None:
        """Send a part of the answer; the last one with ``more`` False."""
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def reply(self, status: int, content: bytes, **headers: str) -> None:
        """A whole answer; JSON unless ``content_type`` says otherwise."""
        fields = {"content_type": "application/json", "content_length": str(len(content)), **headers}
        await self.start(status, {name.replace("_", "-"): value for name, value in fields.items()})
        await self.send(content, more=False)

    async def reply_json(self, status: int, content: object) -> None:
        """A whole answer in JSON."""
        await self.reply(status, json.dumps(content, ensure_ascii=False).encode())

    async def cut_off(self) -> None:
        """Promise an answer and never give it: the server closes the connection."""
        await self.start(200, {"content-type": "application/json", "content-length": "4096"})
