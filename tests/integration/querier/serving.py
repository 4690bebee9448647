"""Real HTTP servers on addresses of the tests' own, in the tests' event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Any

import uvicorn

from tests.wait import wait_until


@dataclass
class _Running:
    server: uvicorn.Server
    task: asyncio.Task[None]
    listener: socket.socket


class Servers:
    """Serves ASGI apps; stops them all at once. An async context manager."""

    def __init__(self) -> None:
        self._running: list[_Running] = []

    async def __aenter__(self) -> Servers:
        return self

    async def __aexit__(self, *_: object) -> None:
        for running in self._running:
            running.server.should_exit = True
        await asyncio.gather(*(running.task for running in self._running))
        for running in self._running:
            running.listener.close()

    async def serve(self, app: Any, host: str = "127.0.0.1", *, patience_s: int = 1) -> str:
        """Serve ``app``; gives its URL. Open requests get ``patience_s`` when it stops."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, 0))
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=patience_s)
        server = _Quiet(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        self._running.append(_Running(server, task, listener))
        await wait_until(lambda: server.started or task.done(), every=0.005)
        if task.done():
            task.result()
        return "http://{}:{}".format(*listener.getsockname()[:2])


class _Quiet(uvicorn.Server):
    """Leaves the signals to pytest."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    async def main_loop(self) -> None:
        await wait_until(lambda: self.should_exit, timeout=600, every=0.01)
