"""Connections between services are renewed, so that replicas that came later get their share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI, Request

from coremesh.service import Health, create_app
from coremesh.service.run import listen

REQUESTS = 400


async def test_a_busy_connection_is_closed_now_and_then() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield

    app = create_app("test", description="", lifespan=lifespan, health=Health())
    seen: list[tuple[str, int]] = []

    @app.get("/who")
    async def who(request: Request) -> dict[str, bool]:
        assert request.client is not None
        seen.append((request.client.host, request.client.port))
        return {"ok": True}

    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/who"
        async with httpx.AsyncClient() as client:
            answers = [await client.get(url, timeout=10) for _ in range(REQUESTS)]
        server.should_exit = True
        await serving
    closed = sum(answer.headers.get("connection") == "close" for answer in answers)
    assert {answer.status_code for answer in answers} == {200}
    # The chance of 400 answers in a row without a close is 3 in a million.
    assert 1 <= closed <= REQUESTS // 4
    last_closed = answers[-1].headers.get("connection") == "close"
    assert len(set(seen)) == closed + (not last_closed)
