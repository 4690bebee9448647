"""A service with nothing but what every service has, for tests of exactly that. Run as a module."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from coremesh.errors import BadModel, Busy, NoCompletion
from coremesh.service import Health, Loops, create_app, run_service
from coremesh.service.auth import require_token
from coremesh.settings import MeshSettings, Section, Settings


class TinySettings(Section):
    section: ClassVar[str] = "tiny"
    fail: str = Field("", description="how to fail")


class Body(BaseModel):
    number: int


def factory(settings: Settings, loops: Loops, health: Health) -> FastAPI:
    fail = settings[TinySettings].fail
    if fail == "model":
        raise BadModel("there is no model at /nowhere")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def work() -> None:
            await asyncio.sleep(0.3)
            if fail == "loop":
                raise RuntimeError("the loop broke")
            await asyncio.Event().wait()

        loops.start("work", work())
        yield
        print("cleaned up", flush=True)

    async def check() -> str | None:
        return "not yet" if fail == "unready" else None

    health.checks["something"] = check
    app = create_app("tiny", description="", lifespan=lifespan, health=health, max_request_bytes=1000)
    token = settings[MeshSettings].token.get_secret_value()

    @app.post("/double", dependencies=[Depends(require_token(token))])
    async def double(body: Body) -> dict[str, int]:
        if body.number == 13:
            raise NoCompletion("nobody knows")
        if body.number == 14:
            raise Busy("too much", retry_after_s=2.5)
        if body.number == 15:
            raise RuntimeError("secret detail")
        return {"double": body.number * 2}

    @app.get("/slow")
    async def slow() -> dict[str, str]:
        await asyncio.sleep(1.0)
        return {"done": "yes"}

    _ = (double, slow)
    return app


if __name__ == "__main__":
    sys.exit(run_service("tiny", factory, [TinySettings, MeshSettings], port=0))
