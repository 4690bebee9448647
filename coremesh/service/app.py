"""The FastAPI app that every service starts from: health, readiness, metrics, bounded bodies, clear errors."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coremesh import __version__
from coremesh.errors import BadRequest, Busy, CoremeshError, NotFound, TooLong, Unavailable, plainly
from coremesh.service.metrics import DEPENDENCY_UP, REQUEST_SECONDS, REQUESTS
from coremesh.service.traces import Correlate

log = structlog.get_logger(__name__)

RENEWED = 1 / 32
"""Share of answers that close their connection. A busy connection is never idle, so its caller would stay with one
replica for ever; closed now and then, it comes back to whichever replica the name leads to next."""
MAX_REQUEST_BYTES = 4 * 1024 * 1024
DRAIN_LIMITS = 4
"""A refused body is read and thrown away up to so many times the limit, for at most DRAIN_S seconds."""
DRAIN_S = 3.0
Check = Callable[[], Awaitable[str | None]]


@dataclass
class Health:
    """What ``/readyz`` asks. A check gives None when all is well, else a sentence."""

    checks: dict[str, Check] = field(default_factory=dict[str, Check])
    notes: dict[str, Check] = field(default_factory=dict[str, Check])
    """What an operator should know, though the service can do its work."""
    draining: bool = False

    async def ask(self) -> dict[str, str]:
        """Every dependency with ``ok`` or what is wrong with it."""
        answers: dict[str, str] = {}
        for name, check in self.checks.items():
            try:
                problem = await check()
            except CoremeshError as error:
                problem = error.message
            answers[name] = problem or "ok"
            DEPENDENCY_UP.labels(name).set(problem is None)
        if self.draining:
            answers["service"] = "draining"
        return answers

    async def tell(self) -> dict[str, str]:
        """The notes that have something to say."""
        told = {name: await note() for name, note in self.notes.items()}
        return {name: text for name, text in told.items() if text}


def create_app(
    title: str,
    *,
    description: str,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    health: Health,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    public: bool = False,
) -> FastAPI:
    """An app with ``/healthz``, ``/readyz``, ``/metrics`` and ``/docs``; errors are ``{code, message, remedy}``.

    ``public``: strangers call it, so its traces begin here.
    """
    app = FastAPI(title=title, description=description, version=__version__, lifespan=lifespan)
    app.add_middleware(_Bounds, limit=max_request_bytes)
    app.add_middleware(_Measure)
    app.add_middleware(Correlate, public=public)
    app.add_exception_handler(CoremeshError, _on_coremesh_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)

    @app.get("/healthz", tags=["health"], summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "alive", "version": __version__}

    @app.get("/readyz", tags=["health"], summary="Can it do its work?")
    async def readyz() -> JSONResponse:
        answers = await health.ask()
        ready = all(answer == "ok" for answer in answers.values())
        body: dict[str, Any] = {"ready": ready, "checks": answers}
        if notes := await health.tell():
            body["notes"] = notes
        return JSONResponse(body, status_code=200 if ready else 503)

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    _ = (healthz, readyz, metrics)
    return app


def error_response(error: CoremeshError) -> JSONResponse:
    """The REST form of an error, with Retry-After when the caller should wait."""
    headers: dict[str, str] = {}
    if isinstance(error, Busy | Unavailable) and error.retry_after_s > 0:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return JSONResponse(error.as_dict(), status_code=error.status, headers=headers)


async def _on_coremesh_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CoremeshError)
    if error.status >= 500:
        log.warning("request failed", route=request.url.path, code=error.code, reason=error.message)
    return error_response(error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    parts: list[str] = []
    for detail in error.errors()[:5]:
        where = ".".join(str(part) for part in detail["loc"] if part != "body")
        if detail["type"] == "json_invalid":
            parts.append("the body is not valid JSON")
        else:
            parts.append(f"{where or 'body'}: {plainly(detail['msg'])}")
    return error_response(BadRequest("; ".join(parts)))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(NotFound(f"there is no {request.method} {request.url.path[:200]}"))
    if error.status_code == 413:
        return error_response(TooLong(str(error.detail)))
    body = {"code": "http_error", "message": str(error.detail), "remedy": "GET /docs lists what there is."}
    return JSONResponse(body, status_code=error.status_code, headers=dict(error.headers or {}))


async def _on_unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", route=request.url.path, exc_info=error)
    return error_response(CoremeshError("something unexpected went wrong here"))


class NotJson(BadRequest):
    """A body that does not say that it is JSON."""

    status = 415
    default_remedy = "Send the header 'content-type: application/json'."


class _Bounds:
    """Refuses bodies over a limit, however they are sent, and JSON routes with another content type."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._limit:
            await self._refuse(scope, receive, send)
            return
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            has_body = declared != b"0" or b"transfer-encoding" in headers
            if has_body and kind != b"application/json":
                error = NotJson(
                    f"the content type is {kind.decode('latin-1') or 'missing'}, not application/json"
                )
                await self._answer(error, scope, receive, send)
                return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._limit:
                    if message.get("more_body", False):
                        await self._hear_out(receive)
                    # FastAPI lets only an HTTPException through while it reads a body.
                    raise HTTPException(413, f"the body is over {self._limit} bytes")
            return message

        await self._app(scope, bounded, send)

    async def _hear_out(self, receive: Receive) -> None:
        # A client that is still sending when the connection closes loses the answer: read on, within bounds.
        heard = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while heard < DRAIN_LIMITS * self._limit:
                    message = await receive()
                    heard += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        break

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._hear_out(receive)
        await self._answer(TooLong(f"the body is over {self._limit} bytes"), scope, receive, send)

    async def _answer(self, error: CoremeshError, scope: Scope, receive: Receive, send: Send) -> None:
        # As the app answers its errors: some of its paths have a shape of their own.
        handle = scope["app"].exception_handlers[CoremeshError]
        answer: Response = await handle(Request(scope), error)
        await answer(scope, receive, send)


class _Measure:
    """Counts and times requests by route template, so that labels stay bounded; closes a connection now and then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def watching(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if random.random() < RENEWED:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, receive, watching)
        finally:
            route: Any = scope.get("route")
            template = getattr(route, "path", "none")
            REQUESTS.labels(template, str(status)).inc()
            REQUEST_SECONDS.labels(template).observe(time.perf_counter() - start)
