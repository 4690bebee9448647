"""A real chain process for tests."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devnet.chain.admin import DevnetAdmin
from devnet.wallets import WalletKeys, ensure_wallets

READY_TIMEOUT_S = 120.0


@dataclass(slots=True)
class RunningChain:
    """One chain process and where its things are; `stop` and `start` restart it on the same state and port."""

    directory: Path
    port: int
    arguments: list[str]
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The network to give to the SDK."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def wallets_dir(self) -> Path:
        """Where the devnet's wallets lie."""
        return self.directory / "wallets"

    @property
    def wallets(self) -> dict[str, WalletKeys]:
        """Addresses by wallet name."""
        return ensure_wallets(self.wallets_dir)

    def admin(self) -> DevnetAdmin:
        """A client for the ``devnet_*`` methods, to be entered."""
        return DevnetAdmin(self.url)

    def start(self) -> str:
        """Start the process and return its ready line; RuntimeError with its output when it does not come up."""
        command = [sys.executable, "-m", "devnet", "chain", "--port", str(self.port), *self.arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        self.process = process
        assert process.stdout is not None
        assert process.stderr is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            readable, _, _ = select.select([process.stdout], [], [], 0.2)
            line = process.stdout.readline() if readable else ""
            if line.startswith("chain ready"):
                return line.strip()
            if readable and not line:
                break
        process.kill()
        _, errors = process.communicate()
        raise RuntimeError(f"the chain did not start: {errors}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process with a signal and return its exit code."""
        process = self.process
        if process is None:
            return 0
        process.send_signal(number)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        self.process = None
        return process.returncode


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_chain(tmp_path: Path, *, block_time: float = 0.05, **flags: Any) -> Iterator[RunningChain]:
    """A chain on a free port with its state and wallets under ``tmp_path``, stopped at the end.

    ``flags`` are those of ``python -m devnet chain`` with underscores: ``tempo=20``, ``commit_reveal=True``.
    """
    arguments = ["--state", str(tmp_path / "chain.state"), "--wallets", str(tmp_path / "wallets")]
    arguments += ["--block-time", str(block_time)]
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            arguments += [f"--{flag}", str(value)]
    chain = RunningChain(tmp_path, free_port(), arguments)
    chain.start()
    try:
        yield chain
    finally:
        chain.stop()
