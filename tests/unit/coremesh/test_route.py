"""The short way of /score answers every body as FastAPI's own way does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response

from coremesh.contracts import ScoreRequest, ScoreResponse
from coremesh.service import Health, create_app
from coremesh.service.auth import require_token
from coremesh.service.route import take_short_way

BODIES = [
    b'{"text": "x"}',
    b'{"text": "x", "k": 3, "uids": [1, 2], "random": true, "deadline_s": 2}',
    b'{"text": "x", "k": "auto", "deadline_s": 0.5}',
    b'{"messages": [{"role": "user", "content": "x"}], "k": "3", "uids": ["4", 5.0], "random": "yes"}',
    b'{"text": "\\ud83d\\ude00 \xc3\xa9", "text": "last"}',
    b"{}",
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b'{"text": "x"} x',
    b"\xff\xfe",
    b'{"text": "\xff"}',
    b'{"text": "\\ud800"}',
    b'{"text": 1}',
    b'{"text": "x", "kk": 1}',
    b'{"text": "x", "k": "many"}',
    b'{"text": "x", "k": 1.5}',
    b'{"text": "x", "k": true}',
    b'{"text": "x", "k": 1e400}',
    b'{"text": "x", "k": 123456789012345678901234567890}',
    b'{"text": "x", "deadline_s": 0}',
    b'{"text": "x", "deadline_s": 601}',
    b'{"text": "x", "deadline_s": NaN}',
    b'{"text": "x", "deadline_s": Infinity}',
    b'{"text": "x", "uids": [1, null]}',
    b'{"text": "x", "uids": {}}',
    json.dumps({"text": "x", "uids": list(range(65537))}).encode(),
    b'{"messages": [{"role": "robot", "content": "x"}]}',
    b'{"messages": [{"role": "user", "content": ""}]}',
    b'{"messages": [{"role": "user", "content": "x", "name": "y"}]}',
    b"[" * 100_000,
]


async def answer(request: ScoreRequest, http: Request) -> Response:
    return Response(
        ascii(request), media_type="text/plain"
    )  # a lone surrogate among it cannot be written in UTF-8


@asynccontextmanager
async def nothing(app: FastAPI) -> AsyncIterator[None]:
    yield


def app_with(token: str, *, short: bool) -> FastAPI:
    app = create_app("t", description="", lifespan=nothing, health=Health())
    allow = require_token(token)
    app.router.add_api_route(
        "/score",
        answer,
        methods=["POST"],
        dependencies=[Depends(allow)],
        response_model=ScoreResponse,
    )
    if short:
        take_short_way(app, "/score", ScoreRequest, answer, allow=allow)
    return app


async def said(app: FastAPI, body: bytes, token: str = "") -> tuple[int, str, bytes]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        reply = await client.post("/score", content=body, headers=headers)
    return reply.status_code, reply.headers["content-type"], reply.content


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
async def test_the_same_answer_either_way(body: bytes) -> None:
    assert await said(app_with("", short=True), body) == await said(app_with("", short=False), body)


async def test_the_short_way_asks_for_the_token_too() -> None:
    for token, status in (("", 401), ("wrong", 401), ("secret", 200)):
        short = await said(app_with("secret", short=True), BODIES[0], token)
        assert short == await said(app_with("secret", short=False), BODIES[0], token)
        assert short[0] == status


def test_it_is_documented_alike() -> None:
    assert app_with("", short=True).openapi() == app_with("", short=False).openapi()
