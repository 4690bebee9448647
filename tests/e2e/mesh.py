"""A whole mesh for tests: ``coremesh up`` as a user runs it, on ports and in a directory of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


class Mesh:
    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.port = _ports(5)
        self.chain_port = _ports(1)
        self.redis_port = _ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.chain_url = f"ws://127.0.0.1:{self.chain_port}"
        self.config = directory / "coremesh.toml"
        self._flags = flags
        self._output = directory.parent / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COREMESH_")}
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from coremesh.cli import main; main()", "up"),
                    *("--dir", str(self.directory), "--port", str(self.port)),
                    *("--chain-port", str(self.chain_port), "--redis-port", str(self.redis_port)),
                    *self._flags,
                ],
                stdout=output,
                stderr=output,
                env=environment,
            )
        self.until(lambda: "Try: curl" in self.output() or None, 240, "the mesh says that it is ready")

    def output(self) -> str:
        return self._output.read_text()

    def stop(self) -> int:
        """SIGTERM, as an operator stops it. Gives the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def cli(self, *words: str, check: bool = True) -> Any:
        """What a ``coremesh … --json`` command prints."""
        done = subprocess.run(
            [sys.executable, "-c", "from coremesh.cli import main; main()", *words, "--json"],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "COREMESH_CONFIG": str(self.config)},
        )
        assert not check or done.returncode == 0, (done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        return json.loads(done.stdout)

    def weights(self, path: str, **params: Any) -> Any:
        """What the weights service answers."""
        token = next(
            line.split('"')[1] for line in self.config.read_text().splitlines() if line.startswith("token")
        )
        answer = httpx.get(
            f"http://127.0.0.1:{self.port + 3}/{path}",
            params=params,
            headers={"authorization": f"Bearer {token}"},
        )
        return answer.raise_for_status().json()

    def ask(self, question: str, **more: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": question}], **more}
        return httpx.post(f"{self.url}/inference", json=body, timeout=60)

    def pids(self) -> dict[str, int]:
        """Every process that the supervisor started, by the module or program it runs."""
        assert self.process is not None
        found: dict[str, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if parent != self.process.pid or not words[0]:
                continue
            name = Path(words[0].split()[0]).name
            if "-m" in words:
                name = words[words.index("-m") + 1]
                name += "." + words[words.index("-m") + 2] if name == "devnet" else ""
                name += ".trainer" if "trainer" in words else ""
            found[name] = int(entry.name)
        return found

    def until(self, look: Callable[[], T | None], timeout: float, why: str) -> T:
        deadline = time.monotonic() + timeout
        while True:
            assert self.process is not None
            assert self.process.poll() is None, f"the mesh ended: {self.output()[-3000:]}"
            seen: Any = None
            try:
                seen = look()
            except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                seen = None
                last: object = error
            else:
                last = seen
            if seen is not None:
                return seen
            assert time.monotonic() < deadline, (
                f"{why}: not within {timeout} s; last: {last!r}\n{self.output()[-3000:]}"
            )
            time.sleep(0.3)


@contextmanager
def running_mesh(directory: Path, *flags: str) -> Iterator[Mesh]:
    mesh = Mesh(directory, *flags)
    try:
        mesh.start()
        yield mesh
    finally:
        if mesh.process is not None and mesh.process.poll() is None:
            mesh.process.terminate()
            try:
                mesh.process.wait(60)
            except subprocess.TimeoutExpired:
                mesh.process.kill()
                mesh.process.wait()


def _ports(count: int) -> int:
    """The first of ``count`` free ports in a row."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        if first + count > 65535:
            continue
        probes = [socket.socket() for _ in range(count)]
        try:
            for offset, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        return first
    raise AssertionError("no free ports")
