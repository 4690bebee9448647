"""A short way for well-formed requests to one route, past the framework's routing and dependencies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coremesh.errors import CoremeshError

Handler = Callable[[Request, Exception], Awaitable[Response]]


def take_short_way(
    app: FastAPI,
    path: str,
    model: type[BaseModel],
    answer: Callable[[Any, Request], Awaitable[Response]],
    *,
    allow: Callable[[Request], Awaitable[None]] | None = None,
    router: APIRouter | None = None,
) -> None:
    """Have ``app`` answer POST requests to its route ``path``, whose body is a ``model``, with ``answer``.

    The route must be there already, in ``router`` where it is in one that ``app`` includes.

    ``answer`` does all that the route's endpoint and dependencies do, but for ``allow``, which comes before the body
    is read; what it raises of coremesh's errors is told as the route's. Bodies that the model accepts go straight from
    their bytes to it: solving dependencies takes four times as long. Any other goes the usual way, which says what is
    wrong with it. All middleware that the app has goes before; documentation is the route's.
    """
    found = (route for route in (router or app.router).routes if isinstance(route, APIRoute))
    route = next(route for route in found if route.path == path)
    short = Middleware(_ShortWay, fastapi=app, route=route, model=model, answer=answer, allow=allow)
    app.user_middleware.append(short)  # the innermost


class _ShortWay:
    def __init__(
        self,
        app: ASGIApp,
        fastapi: FastAPI,
        route: APIRoute,
        model: type[BaseModel],
        answer: Callable[[Any, Request], Awaitable[Response]],
        allow: Callable[[Request], Awaitable[None]] | None,
    ) -> None:
        self._app = app
        self._fastapi = fastapi
        self._route = route
        self._model = model
        self._answer = answer
        self._allow = allow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._route.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route  # requests are counted by it
        heard: list[Message | HTTPException] = []
        try:
            if self._allow is not None:
                await self._allow(Request(scope))
            wanted = self._wanted(await _read(receive, heard))
            if wanted is None:
                await self._app(scope, _again(heard, receive), send)
                return
            response = await self._answer(wanted, Request(scope, _again(heard, receive)))
        except CoremeshError as error:
            tell = cast("Handler", self._fastapi.exception_handlers[CoremeshError])
            response = await tell(Request(scope), error)
        await response(scope, receive, send)

    def _wanted(self, body: bytes | None) -> BaseModel | None:
        if body is None:
            return None
        try:
            return self._model.model_validate_json(body)
        except ValidationError:
            return None


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
