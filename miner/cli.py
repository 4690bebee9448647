"""``python -m miner`` (or ``coremesh miner``): run the reference miner until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

import uvicorn
import uvloop

from coremesh.errors import BadSetting, CoremeshError
from coremesh.service import Health, Loops
from coremesh.service.logs import configure_logging
from coremesh.service.run import listen
from coremesh.settings import LogSettings
from coremesh.types import Hotkey
from coremesh.wire.wallets import load_keypair
from miner.app import create_app
from miner.backends.protocol import Backend
from miner.chain import MinerChain
from miner.gate import Gate, Stakes
from miner.options import Options, parse

EXIT_LOOP_DIED = 1
EXIT_BAD_START = 2


def main(argv: Sequence[str]) -> int:
    """Run the miner; the exit code: 0 after a signal, 1 when a background loop died, 2 when it could not start."""
    try:
        options = parse(argv)
        configure_logging(
            LogSettings.model_validate({"level": options.log_level, "format": options.log_format}), "miner"
        )
        return uvloop.run(_run(options))
    except CoremeshError as error:
        print(f"miner: {error.message}. {error.remedy}", file=sys.stderr)
        return EXIT_BAD_START


def make_backend(options: Options) -> Backend:
    """The chosen backend, not started."""
    if options.backend == "openai":
        from miner.backends.openai import OpenAIBackend

        return OpenAIBackend(
            options.base_url,
            options.model,
            api_key=options.api_key,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            concurrency=options.concurrency,
        )
    try:
        from miner.backends.transformers import TransformersBackend
    except ImportError as error:
        raise BadSetting(
            f"--backend transformers: {error.name} is not installed",
            remedy="pip install 'coremesh[reward]' brings torch and transformers.",
        ) from None
    return TransformersBackend(
        options.model,
        device=options.device,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        max_queue=options.concurrency,
    )


async def _run(options: Options) -> int:
    keypair = load_keypair(options.wallet_path, options.wallet_name, options.wallet_hotkey)
    stakes = Stakes()
    chain = MinerChain(options.network, options.netuid, keypair, stakes)
    gate = Gate(Hotkey(keypair.ss58_address), stakes, options.allowed, options.min_stake)
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(listen(options.host, options.port, flag="--port"))
        backend = make_backend(options)
        stack.push_async_callback(backend.close)
        await backend.start()
        health = Health()
        server = _Server(create_app(backend, gate, health, max_timeout_s=options.max_timeout_s), options)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.end)
        deaths: list[str] = []

        def on_death(name: str, error: BaseException | None) -> None:
            deaths.append(name)
            server.end()

        stack.push_async_callback(chain.close)
        loops = await stack.enter_async_context(Loops(on_death))
        if options.min_stake is not None:
            loops.start("stakes", chain.follow(options.sync_s))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        publishing = asyncio.create_task(_publish(chain, options, server.up))
        try:
            await asyncio.wait([serving, publishing], return_when=asyncio.FIRST_COMPLETED)
            if publishing.done():
                publishing.result()
                await asyncio.wait([serving])
        finally:
            health.draining = True
            server.end()
            publishing.cancel()
            await asyncio.wait([serving, publishing])
        serving.result()
        return EXIT_LOOP_DIED if deaths else 0


async def _publish(chain: MinerChain, options: Options, up: asyncio.Event) -> None:
    """Tell the chain where we are, once we are there, and people that we are ready."""
    await up.wait()
    if options.endpoint is not None:
        await chain.publish(options.endpoint, deadline_s=options.chain_deadline_s)
    print(f"miner ready: http://{options.host}:{options.port}", flush=True)


class _Server(uvicorn.Server):
    """uvicorn that leaves signals to its owner and says when it is up."""

    def __init__(self, app: object, options: Options) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                loop="uvloop",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=max(1, int(options.drain_s)),
            )
        )
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    def end(self) -> None:
        """Drain and stop."""
        self.should_exit = True
