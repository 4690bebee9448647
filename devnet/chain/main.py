"""``python -m devnet chain``: run the embedded chain until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from contextlib import ExitStack

from devnet.chain.chain import Chain
from devnet.chain.options import ChainOptions
from devnet.chain.saved import BadState, locked
from devnet.chain.server import Server


def _bind(host: str, port: int) -> socket.socket:
    """Take a port without listening yet: whoever waits for the port waits for genesis and wallets too."""
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except BaseException:
        taken.close()
        raise
    return taken


async def _serve(options: ChainOptions) -> None:
    # The port first: a chain that cannot listen must not touch the state of the one that does.
    with ExitStack() as stack:
        bound = stack.enter_context(_bind(options.host, options.port))
        if options.state_file is not None:
            stack.enter_context(locked(options.state_file))
        server = Server(Chain(options))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        await server.run(bound)


def run(options: ChainOptions) -> int:
    """Serve; the exit code: 0 after a signal, 2 when the port, the state or a setting is no good."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Somebody knocking on the port without speaking websocket is no error of ours.
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_serve(options))
    except (BadState, ValueError) as problem:
        print(f"chain: {problem}", file=sys.stderr)
        return 2
    except OSError as problem:
        if problem.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL) and not isinstance(
            problem, socket.gaierror
        ):
            raise
        at = f"{options.host}:{options.port}"
        print(
            f"chain: cannot listen on {at} ({os.strerror(problem.errno or 0)}); pass another --port.",
            file=sys.stderr,
        )
        return 2
    return 0
