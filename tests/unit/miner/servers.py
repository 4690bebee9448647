"""Real HTTP servers on free ports for tests, and a validator that signs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from coremesh.service import Health
from coremesh.service.run import listen
from coremesh.types import Hotkey
from coremesh.wire.btauth import Signer
from coremesh.wire.keys import keypair_from_uri
from miner.app import create_app
from miner.backends.protocol import Backend
from miner.gate import Gate, Stakes

MINER = Hotkey(keypair_from_uri("//miner").ss58_address)
VALIDATOR = Signer(keypair_from_uri("//validator"))
ASKED = {"roles": ["system", "user"], "messages": ["Be brief.", "What is ice?"], "timeout": 5.0}


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an ASGI app from a thread; yields its address."""
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            app, log_config=None, log_level="critical", lifespan="on", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


Piece = str | float | bytes | None
"""What a fake model server does next: send a delta, wait seconds, send raw bytes, or end with [DONE]."""


@dataclass
class FakeOpenAI:
    """A tiny server of the chat completions API that says what a test wrote down."""

    pieces: list[Piece] = field(default_factory=lambda: ["Ice is ", "frozen ", "water.", None])
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    seen: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    open: int = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
            ]
        )

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": []}, status_code=self.status)

    async def _complete(self, request: Request) -> Response:
        self.seen.append((dict(request.headers), await request.json()))
        if self.status != 200:
            return JSONResponse({"error": {"message": "no"}}, status_code=self.status)
        return StreamingResponse(self._events(), media_type="text/event-stream", headers=self.headers)

    async def _events(self) -> AsyncGenerator[bytes, None]:
        self.open += 1
        try:
            for piece in self.pieces:
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                elif isinstance(piece, bytes):
                    yield piece
                elif piece is None:
                    yield b"data: [DONE]\n\n"
                else:
                    chunk = {"choices": [{"index": 0, "delta": {"content": piece}}]}
                    yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
        finally:
            self.open -= 1


@dataclass
class AskedMiner:
    """A running miner and ways to ask it."""

    url: str

    def headers(self, body: bytes, path: str = "/forward", signer: Signer = VALIDATOR) -> dict[str, str]:
        """Signed headers of a POST."""
        return {"content-type": "application/json", **signer.headers("POST", path, body, MINER)}

    def post(
        self, content: object = ASKED, path: str = "/forward", signer: Signer = VALIDATOR, **headers: str
    ) -> httpx.Response:
        """A signed POST; ``content`` as JSON, or raw when it is bytes."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        fields = {**self.headers(body, path, signer), **headers}
        return httpx.post(self.url + path, content=body, headers=fields, trust_env=False, timeout=20)


@contextlib.contextmanager
def running_miner(
    make: Callable[[], Backend],
    *,
    allowed: frozenset[str] = frozenset(),
    min_stake: float | None = None,
    stakes: Stakes | None = None,
    max_timeout_s: float = 10.0,
) -> Iterator[AskedMiner]:
    """The miner's app over a backend, which is built, started and closed on the server's loop."""
    gate = Gate(MINER, stakes or Stakes(), allowed, min_stake)
    with running(_Lazy(make, gate, max_timeout_s)) as url:
        yield AskedMiner(url)


class _Lazy:
    """Builds the app on the loop that serves it, as the miner's command line does."""

    def __init__(self, make: Callable[[], Backend], gate: Gate, max_timeout_s: float) -> None:
        self._make = make
        self._gate = gate
        self._max_timeout_s = max_timeout_s
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        backend = self._make()
        await backend.start()
        self._app = create_app(backend, self._gate, Health(), max_timeout_s=self._max_timeout_s)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await backend.close()
        await send({"type": "lifespan.shutdown.complete"})
