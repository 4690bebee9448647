"""A short way for well-formed requests to one route, past the framework's routing and dependencies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coremesh.errors import CoremeshError


def take_short_way(
    app: FastAPI,
    route: APIRoute,
    model: type[BaseModel],
    allow: Callable[[Request], Awaitable[None]],
    answer: Callable[[Any], Awaitable[Response]],
) -> None:
    """Have ``app`` answer POST requests to ``route`` with ``answer``, whose body is a ``model``, after ``allow``.

    Bodies that the model accepts go straight from their bytes to ``answer``; any other goes the usual way, which says
    what is wrong with it. All middleware that the app has goes before; documentation is the route's.
    """
    short = Middleware(_ShortWay, fastapi=app, route=route, model=model, allow=allow, answer=answer)
    app.user_middleware.append(short)  # the innermost


class _ShortWay:
    def __init__(
        self,
        app: ASGIApp,
        fastapi: FastAPI,
        route: APIRoute,
        model: type[BaseModel],
        allow: Callable[[Request], Awaitable[None]],
        answer: Callable[[Any], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._fastapi = fastapi
        self._route = route
        self._model = model
        self._allow = allow
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._route.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route  # requests are counted by it
        heard: list[Message | HTTPException] = []
        request = Request(scope)
        try:
            await self._allow(request)
            body = await _read(receive, heard)
            wanted = None if body is None else self._model.model_validate_json(body)
            response = None if wanted is None else await self._answer(wanted)
        except ValidationError:
            response = None
        except CoremeshError as error:
            handler: Any = self._fastapi.exception_handlers[CoremeshError]
            response = await handler(request, error)
        if response is None:
            await self._app(scope, _again(heard, receive), send)
        else:
            await response(scope, receive, send)


async def _read(receive: Receive, heard: list[Message | HTTPException]) -> bytes | None:
    """The whole body, or None where it ended otherwise; ``heard`` gets what was received."""
    parts: list[bytes] = []
    more = True
    while more:
        try:
            message = await receive()
        except HTTPException as error:  # it was over the limit
            heard.append(error)
            return None
        heard.append(message)
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(heard: list[Message | HTTPException], receive: Receive) -> Receive:
    """What was received, once more, and then what comes."""

    async def replayed() -> Message:
        if not heard:
            return await receive()
        first = heard.pop(0)
        if isinstance(first, HTTPException):
            raise first
        return first

    return replayed
