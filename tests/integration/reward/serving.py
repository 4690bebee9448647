"""The reward service on a real socket, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn

from coremesh.service.app import Health
from coremesh.service.loops import Loops
from coremesh.service.run import listen
from coremesh.settings import (
    ChainSettings,
    HttpSettings,
    MeshSettings,
    RedisSettings,
    RewardSettings,
    Settings,
    load,
)
from services.reward.app import create_app
from tests.wait import wait_until

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SECTIONS = [RewardSettings, MeshSettings, RedisSettings, ChainSettings, HttpSettings]


def settings(*argv: str, stack: str | None = None, folder: Path | None = None) -> Settings:
    """Settings from flags, with a stack from TOML text."""
    words = list(argv)
    if stack is not None:
        assert folder is not None
        file = folder / "stack.toml"
        file.write_text(stack)
        words.append(f"--reward.stack={file}")
    return load(SECTIONS, words)


@asynccontextmanager
async def serving(loaded: Settings, died: list[str] | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running service; ``died`` takes the names of loops that die."""
    deaths: list[str] = [] if died is None else died
    loops = Loops(lambda name, error: deaths.append(name))
    app = create_app(loaded, loops, Health())
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        async with loops:
            running = asyncio.create_task(server.serve(sockets=[listener]))
            await wait_until(lambda: server.started or running.done())
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                yield client
            server.should_exit = True
            await running


def ask(question: str, completions: list[str], **more: object) -> dict[str, object]:
    """The body of a /reward request."""
    return {"messages": [{"role": "user", "content": question}], "completions": completions, **more}
