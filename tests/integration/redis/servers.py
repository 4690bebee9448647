"""Real Redis processes on ports of their own: a cluster of three masters, a master with a replica and Sentinels."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis

from tests.redis_server import redis_executable

SLOTS = 16384


def free_port() -> int:
    # A member of a cluster listens on its port and on one 10000 above.
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            if port + 10000 > 65535:
                continue
            try:
                two.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            return port


def until(look: Callable[[], bool], why: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if look():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


class Server:
    """One redis-server."""

    def __init__(self, directory: Path, *options: str, port: int = 0, sentinel: str = "") -> None:
        directory.mkdir(parents=True)
        self.port = port or free_port()
        self.password: str | None = None
        config = directory / "redis.conf"
        config.write_text(sentinel)
        self.process = subprocess.Popen(
            [
                redis_executable(),
                *([str(config), "--sentinel"] if sentinel else []),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)),
                *([] if sentinel else ("--save", "")),
                *options,
            ],
            stdout=(directory / "log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        until(lambda: bool(self.client().ping()), f"a Redis on {self.port}")

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password, protocol=2)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)


def cluster(directory: Path, members: int = 3) -> list[Server]:
    """Masters that share the slots."""
    servers = [
        Server(directory / str(n), *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"))
        for n in range(members)
    ]
    for n, server in enumerate(servers):
        client = server.client()
        client.execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
        slots = range(n * SLOTS // members, (n + 1) * SLOTS // members)
        client.execute_command("CLUSTER ADDSLOTS", *slots)
        client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port)
    for server in servers:
        until(
            lambda server=server: server.client().cluster("INFO")["cluster_state"] == "ok",  # pyright: ignore
            "a cluster that is whole",
        )
    return servers
