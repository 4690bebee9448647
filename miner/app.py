"""The miner's HTTP surface: ``/forward``, ``/backward``, and the health paths of every coremesh service."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from coremesh.errors import CoremeshError
from coremesh.service import Health
from coremesh.service import create_app as create_service
from miner.backends.protocol import Backend, BackendFailed
from miner.gate import Gate
from miner.wire import MAX_BODY_BYTES, Backward, Forward, openapi_of, read_body

log = structlog.get_logger(__name__)

EVENTS = "text/event-stream"


def create_app(
    backend: Backend, gate: Gate, health: Health, *, max_timeout_s: float, default_timeout_s: float = 10.0
) -> FastAPI:
    """The app over a started ``backend``. A caller's timeout is cut to ``max_timeout_s``."""
    app = create_service(
        "coremesh miner",
        description="Answers validators: coremesh/1 over btauth/1.",
        lifespan=_nothing_to_start,
        health=health,
        max_request_bytes=MAX_BODY_BYTES,
    )
    health.checks["backend"] = backend.problem

    async def admitted(request: Request) -> bytes:
        """The raw body of a request that the gate lets in. The signature comes before anything is parsed."""
        body = await request.body()
        query: bytes = request.scope["query_string"]
        target = (request.scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        gate.admit(request.headers, body, request.method, target)
        return body

    @app.post(
        "/forward", tags=["miner"], summary="Complete a conversation", openapi_extra=openapi_of(Forward)
    )
    async def forward(request: Request) -> Response:
        asked = read_body(await admitted(request), Forward)
        timeout_s = min(asked.timeout or default_timeout_s, max_timeout_s)
        pieces = backend.stream(asked.turns(), timeout_s=timeout_s)
        if EVENTS in request.headers.get("accept", ""):
            return await _streamed(pieces)
        async with aclosing(pieces):
            completion = "".join([piece async for piece in pieces]).strip()
        if not completion:
            raise BackendFailed("the model has nothing to say to this")
        return JSONResponse({"completion": completion})

    @app.post("/backward", tags=["miner"], summary="Take note of rewards", openapi_extra=openapi_of(Backward))
    async def backward(request: Request) -> dict[str, str]:
        notice = read_body(await admitted(request), Backward)
        finite = [reward for reward in notice.rewards if math.isfinite(reward)]
        if finite:
            log.info("rewarded", rewards=len(finite), mean=round(sum(finite) / len(finite), 4))
        return {}

    _ = (forward, backward)
    return app


@asynccontextmanager
async def _nothing_to_start(app: FastAPI) -> AsyncIterator[None]:
    yield


async def _streamed(pieces: AsyncGenerator[str, None]) -> Response:
    """Server-sent events. Waits for the first piece, so that an early failure still has its own status."""
    first = await anext(pieces, "")
    if not first:
        raise BackendFailed("the model has nothing to say to this")

    async def events() -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            yield _event(first)
            try:
                async for piece in pieces:
                    yield _event(piece)
            except CoremeshError as error:
                # The status has been sent; that [DONE] never comes tells the caller.
                log.warning("stream broken off", code=error.code, reason=error.message)
                return
            yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type=EVENTS, headers={"cache-control": "no-store"})


def _event(delta: str) -> bytes:
    return b"data: " + json.dumps({"delta": delta}, ensure_ascii=False).encode() + b"\n\n"
