"""All residents behind one uvicorn server, each on a socket of its own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence

import uvicorn

from coremesh.errors import BadSetting
from devnet.miners.app import DEAD, Street
from devnet.roster import Resident

GRACE_S = 1
"""Seconds that open requests get at the end; an attack would otherwise hold the process."""


class Server(uvicorn.Server):
    """uvicorn that leaves signals to its owner: set ``should_exit`` to end it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def make_server(street: Street) -> Server:
    """A server for ``serve(sockets=listeners)``. It logs nothing: these miners fail on purpose."""
    config = uvicorn.Config(
        street,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
    )
    return Server(config)


@contextlib.contextmanager
def listeners(residents: Sequence[Resident]) -> Iterator[list[socket.socket]]:
    """A listening socket for each resident but the dead; BadSetting when an address cannot be had."""
    with contextlib.ExitStack() as stack:
        opened: list[socket.socket] = []
        for one in residents:
            if one.character == DEAD:
                continue
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((one.host, one.port))
                listener.listen(256)
            except OSError as error:
                raise BadSetting(
                    f"the resident {one.name} cannot listen on {one.host}:{one.port}: {error.strerror}",
                    remedy="Stop the other devnet on this machine, or leave the resident out with --only.",
                ) from None
            listener.set_inheritable(True)
            opened.append(listener)
        yield opened
