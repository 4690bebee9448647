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


class NoEndpoint(NotFound):
    """Another part of OpenAI's API."""

    default_remedy = (
        "POST /v1/chat/completions, GET /v1/models and GET /v1/models/coremesh are what there is."
    )


class WrongMethod(BadRequest):
    """A path that there is, with a method that it does not take."""

    code = "method_not_allowed"
    status = 405
    default_remedy = "/v1/chat/completions takes POST, /v1/models GET."


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def openai_body(error: CoremeshError) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}``; the message ends with what to do."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {
        "error": {
            "message": f"{error.message}. {error.remedy}",
            "type": kind,
            "param": "messages" if error.code == "bad_messages" else getattr(error, "param", None),
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
        if not f"{request.url.path}/".startswith(prefix):
            return answer
        if not isinstance(error, CoremeshError):
            error = _as_ours(request, error)
        told = openai_error(error)
        if "allow" in answer.headers:
            told.headers["allow"] = answer.headers["allow"]
        return told

    return handle


def _as_ours(request: Request, error: Exception) -> CoremeshError:
    if not isinstance(error, HTTPException):
        return CoremeshError("something unexpected went wrong here")
    what = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        return NoEndpoint(f"there is no {what}")
    if error.status_code == 405:
        return WrongMethod(f"{what} is not allowed")
    if error.status_code == 413:
        return TooLong(str(error.detail))
    return BadRequest(str(error.detail))
