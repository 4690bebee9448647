"""Running one service as a process: settings, logging, signals, exit codes."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from coremesh.errors import BadModel, BadSetting, BadWallet, CoremeshError
from coremesh.service import traces
from coremesh.service.app import Health
from coremesh.service.logs import configure_logging
from coremesh.service.loops import Loops
from coremesh.service.metrics import watch_loop_lag
from coremesh.settings import ALL_SECTIONS, HttpSettings, LogSettings, Section, Settings, TraceSettings, load

log = structlog.get_logger(__name__)

EXIT_LOOP_DIED = 1
EXIT_BAD_SETTING = 2
EXIT_START_FAILED = 3

GC_THRESHOLDS = (20_000, 20, 50)
"""A request makes hundreds of objects and hardly a cycle: with Python's own 700 each looks for some several times."""

COMMON: tuple[type[Section], ...] = (HttpSettings, LogSettings, TraceSettings)
"""What every service takes beside its own."""

Factory = Callable[[Settings, Loops, Health], FastAPI]


def run_service(
    name: str,
    factory: Factory,
    sections: Sequence[type[Section]],
    *,
    port: int,
    argv: Sequence[str] | None = None,
) -> int:
    """Run a service until SIGTERM or SIGINT. Gives the exit code.

    0 after a clean stop; 1 when a background loop died; 2 for a bad setting, wallet or model; 3 when it could
    not start. ``factory(settings, loops, health)`` builds the app; the app's lifespan starts ``loops``.
    """
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        if {"-h", "--help"} & set(words):
            print(usage(name, [*sections, *COMMON]))
            return 0
        settings = load([*sections, *COMMON], words, known=ALL_SECTIONS)
        configure_logging(settings[LogSettings], name)
        traces.start(settings[TraceSettings], name)
        try:
            return _serve(name, factory, settings, port)
        finally:
            traces.stop()
    except (BadSetting, BadModel, BadWallet) as error:
        print(f"{name}: {error.message}. {error.remedy}", file=sys.stderr)
        return EXIT_BAD_SETTING
    except CoremeshError as error:
        print(f"{name}: {error.message}. {error.remedy}", file=sys.stderr)
        return EXIT_START_FAILED


def usage(name: str, sections: Sequence[type[Section]]) -> str:
    """The settings that a service takes, as its ``--help`` shows them."""
    lines = [
        f"The coremesh service {name}. Settings, as flags (--redis.url=…), COREMESH_REDIS_URL or TOML:",
        "",
    ]
    lines += [
        f"  --{section.section}.{field_name}  {field.description}"
        for section in sections
        for field_name, field in section.model_fields.items()
    ]
    return "\n".join([*lines, "", "  --config=FILE  TOML file of settings"])


def _serve(name: str, factory: Factory, settings: Settings, default_port: int) -> int:
    http = settings[HttpSettings]
    listener = listen(http.host, http.port or default_port)
    with listener:
        host, port = listener.getsockname()[:2]
        died: list[str] = []
        health = Health()
        server: uvicorn.Server

        def on_death(loop_name: str, error: BaseException | None) -> None:
            died.append(loop_name)
            server.should_exit = True

        loops = Loops(on_death)
        app = factory(settings, loops, health)
        # What was imported lives as long as the process: going through all of it again and again, as the collector
        # does, stops the event loop for a tenth of a second each time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=_protocol(http.receive_s),
            log_config=None,
            access_log=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, int(http.drain_s)),
            server_header=False,
            backlog=1024,
        )
        server = _Server(config, health, f"{name} listens on http://{host}:{port}")

        async def main() -> None:
            loops.start("loop-lag", watch_loop_lag())
            async with loops:
                await server.serve(sockets=[listener])

        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(main())
        if died:
            print(f"{name}: the background loop {died[0]!r} died; see the log", file=sys.stderr)
            return EXIT_LOOP_DIED
        if not server.started:
            return EXIT_START_FAILED
        return 0


def listen(host: str, port: int, *, flag: str = "--http.port") -> socket.socket:
    """A listening socket. Raises BadSetting in one sentence, naming the port's ``flag``, when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise BadSetting(
            f"cannot listen on {host}:{port}: {error.strerror}",
            remedy=f"Stop what listens there, or choose another {flag}.",
        ) from None
    listener.set_inheritable(True)
    return listener


class _Server(uvicorn.Server):
    """uvicorn that says when it is ready and turns ``/readyz`` off while it drains."""

    def __init__(self, config: uvicorn.Config, health: Health, ready: str) -> None:
        super().__init__(config)
        self._health = health
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Stop on a signal; unlike uvicorn's own, do not raise it again after a clean stop."""
        old = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._health.draining = True
        await super().shutdown(sockets)


def _protocol(receive_s: float) -> type[asyncio.Protocol] | str:
    try:
        from coremesh.service.patience import patient
    except ImportError:  # no httptools here
        return "h11"
    return patient(receive_s)
