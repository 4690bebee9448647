"""A route whose well-formed requests take the short way past FastAPI's machinery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError


def short_route(
    model: type[BaseModel],
    allow: Callable[[Request], Awaitable[None]],
    answer: Callable[[Any], Awaitable[Response]],
) -> type[APIRoute]:
    """A class for a route whose body is a ``model``, whose only dependency is ``allow``, and whose endpoint is
    ``answer``.

    A body that the model accepts goes straight from its bytes to the endpoint; solving dependencies takes four times
    as long. Any other goes the usual way, which says what is wrong with it. Documentation is the usual route's.
    """

    class ShortRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:
            usual = super().get_route_handler()

            async def handler(request: Request) -> Response:
                await allow(request)
                try:
                    wanted = model.model_validate_json(await request.body())
                except ValidationError:
                    return await usual(request)
                return await answer(wanted)

            return handler

    return ShortRoute
