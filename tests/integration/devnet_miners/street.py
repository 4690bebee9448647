"""Residents on real sockets for tests, each on a free port of its own address."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx

from coremesh.wire.btauth import Signer
from coremesh.wire.keys import keypair_from_uri
from devnet.chain.testing import free_port
from devnet.miners.app import Street, behaviours
from devnet.miners.serve import Server, listeners, make_server
from devnet.roster import RESIDENTS, Resident

VALIDATOR = keypair_from_uri("//validator")


@dataclass
class Neighbours:
    """Running residents, and a validator that asks them."""

    residents: dict[str, Resident]
    signer: Signer
    server: Server

    def hotkey(self, name: str) -> str:
        """The address for which requests to a resident are signed."""
        return keypair_from_uri(f"//{name}").ss58_address

    def url(self, name: str, path: str = "/forward") -> str:
        """Where a resident listens."""
        one = self.residents[name]
        return f"http://{one.host}:{one.port}{path}"

    def headers(self, name: str, body: bytes, path: str = "/forward") -> dict[str, str]:
        """Signed headers of a POST to a resident."""
        signed = self.signer.headers("POST", path, body, self.hotkey(name))
        return {"content-type": "application/json", **signed}

    def post(
        self, name: str, content: object, path: str = "/forward", *, timeout: float = 10.0, **headers: str
    ) -> httpx.Response:
        """A signed POST; ``content`` as JSON, or raw when it is bytes."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        with httpx.Client(trust_env=False, timeout=timeout) as client:
            return client.post(
                self.url(name, path), content=body, headers={**self.headers(name, body, path), **headers}
            )

    def ask(self, name: str, question: str, **headers: str) -> httpx.Response:
        """One user message."""
        return self.post(name, {"roles": ["user"], "messages": [question], "timeout": 4.0}, **headers)

    def raw(self, name: str) -> socket.socket:
        """A connection on which a signed request has been sent."""
        body = json.dumps({"roles": ["user"], "messages": ["What is ice?"], "timeout": 4.0}).encode()
        one = self.residents[name]
        fields = {"host": one.host, "content-length": str(len(body)), **self.headers(name, body)}
        head = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
        connection = socket.create_connection((one.host, one.port), timeout=10)
        connection.sendall(f"POST /forward HTTP/1.1\r\n{head}\r\n".encode() + body)
        return connection


@contextmanager
def running_street(*names: str, seed: int = 0) -> Iterator[Neighbours]:
    """The residents ``names`` (all without any) behind the server that the devnet uses."""
    chosen = [one for one in RESIDENTS if not names or one.name in names]
    # Only the port is other than in the roster, so that a devnet may run beside the tests.
    ports = random.Random().sample(range(20_000, 30_000), len(chosen))
    residents = [replace(one, port=port) for one, port in zip(chosen, ports, strict=True)]
    hotkeys = {one.name: keypair_from_uri(f"//{one.name}").ss58_address for one in residents}
    server = make_server(Street(behaviours(residents, hotkeys, seed)))
    with listeners(residents) as sockets:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=sockets)), daemon=True)
        thread.start()
        try:
            yield Neighbours({one.name: one for one in residents}, Signer(VALIDATOR), server)
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def moved(*names: str) -> tuple[Resident, ...]:
    """Residents of the roster on free ports."""
    by_name = {one.name: one for one in RESIDENTS}
    return tuple(replace(by_name[name], port=free_port()) for name in names)
