"""Errors in OpenAI's shape, for the endpoints that speak it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from coremesh.errors import BadRequest, CoremeshError, NotFound, TooLong
from coremesh.service.app import error_response

Handler = Callable[[Request, Exception], Awaitable[Response]]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def openai_body(error: CoremeshError) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}``; the message ends with what to do."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {
        "error": {
            "message": f"{error.message}. {error.remedy}",
            "type": kind,
            "param": "messages" if error.code == "bad_messages" else None,
            "code": error.code,
        }
    }


def openai_error(error: CoremeshError) -> JSONResponse:
    """``error`` as a response, with Retry-After when the caller should wait."""
    plain = error_response(error)
    headers = {"retry-after": plain.headers["retry-after"]} if "retry-after" in plain.headers else {}
    return JSONResponse(openai_body(error), status_code=error.status, headers=headers)


def answer_in_openai_shape(app: FastAPI, *, prefix: str) -> None:
    """Let ``app`` answer errors of all paths under ``prefix`` in OpenAI's shape, the others as before."""
    handlers = cast(dict[Any, Handler], app.exception_handlers)
    for kind in (CoremeshError, HTTPException, Exception):
        app.add_exception_handler(kind, _either(handlers[kind], prefix))


def _either(other: Handler, prefix: str) -> Handler:
    async def handle(request: Request, error: Exception) -> Response:
        answer = await other(request, error)  # it logs, too
        if not request.url.path.startswith(prefix):
            return answer
        if not isinstance(error, CoremeshError):
            error = _as_ours(error)
        return openai_error(error)

    return handle


def _as_ours(error: Exception) -> CoremeshError:
    if not isinstance(error, HTTPException):
        return CoremeshError("something unexpected went wrong here")
    if error.status_code == 404:
        return NotFound("there is no such endpoint")
    if error.status_code == 413:
        return TooLong(str(error.detail))
    return BadRequest(str(error.detail))
