"""What the mesh on one machine consists of."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from coremesh.supervisor.process import Plan
from coremesh.supervisor.redis_binary import redis_executable

CHAIN_PORT = 9944
NICE = {"weights": 5, "trainer": 5}
"""They can wait: the querier, which users wait for, need not queue for a core behind them. Models step back by
themselves."""


@dataclass(frozen=True, slots=True)
class Options:
    """How ``coremesh up`` was called. Ports are on 127.0.0.1."""

    directory: Path
    port: int = 8080
    chain_port: int = CHAIN_PORT
    redis_port: int = 6390
    block_time_s: float = 0.25
    tempo: int = 60
    rate_limit: int = 20
    commit_reveal: bool = False
    host: str = "127.0.0.1"

    @property
    def gating_port(self) -> int:
        """The gating service's port."""
        return self.port + 1

    @property
    def reward_port(self) -> int:
        """The reward service's port."""
        return self.port + 2

    @property
    def weights_port(self) -> int:
        """The weights service's port."""
        return self.port + 3

    @property
    def trainer_port(self) -> int:
        """The training loop's port."""
        return self.port + 4

    @property
    def street(self) -> int:
        """Second number of the miners' addresses: devnets with chains of their own live on streets of their own."""
        return 1 + (self.chain_port - CHAIN_PORT) % 255

    @property
    def config(self) -> Path:
        """The settings that all services share."""
        return self.directory / "coremesh.toml"


def write_config(options: Options) -> str:
    """Write the settings file of the devnet and give the Redis URL in force."""
    redis_url = os.environ.get("COREMESH_REDIS_URL") or f"redis://127.0.0.1:{options.redis_port}/0"
    options.directory.mkdir(parents=True, exist_ok=True)
    token_file = options.directory / "token"
    if not token_file.exists():
        token_file.touch(mode=0o600)
        token_file.write_text(secrets.token_urlsafe(32))
    local = "http://127.0.0.1"
    text = f"""# Written by `coremesh up`; environment variables win over it.
[redis]
url = "{redis_url}"

[chain]
network = "ws://127.0.0.1:{options.chain_port}"
netuid = 1
sync_blocks = 20

[wallet]
path = "{(options.directory / "wallets").resolve()}"
name = "validator"
hotkey = "default"

[mesh]
token = "{token_file.read_text().strip()}"
querier_url = "{local}:{options.port}"
gating_url = "{local}:{options.gating_port}"
reward_url = "{local}:{options.reward_port}"
weights_url = "{local}:{options.weights_port}"
trainer_url = "{local}:{options.trainer_port}"

[querier]
allow_loopback = true
inference_topk = 8
inference_timeout_s = 3.0
spool = "{(options.directory / "spool").resolve()}"

[trainer]
topk = 12
timeout_s = 1.5
question_timeout_s = 1.5
# The chain, two dozen miners and every service share this machine: leave it some air.
pause_s = 0.2

[weights]
interval_s = 0.5

[archive]
event_log = "{(options.directory / "events").resolve()}"
event_log_bytes = 50_000_000
"""
    options.config.touch(mode=0o600)
    options.config.write_text(text)
    return redis_url


def plans(options: Options) -> list[Plan]:
    """Every process, in the order of starting; stopping goes the other way."""
    redis_url = write_config(options)
    python = sys.executable
    data = options.directory.resolve()
    chain_url = f"ws://127.0.0.1:{options.chain_port}"
    shared = {
        "COREMESH_CONFIG": str(options.config.resolve()),
        # Two cores are shared by a dozen processes: more threads only get in each other's way.
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "BITTENSOR_RUNTIME_CACHE_DIR": str(data / "runtime-cache"),
        "PYTHONUNBUFFERED": "1",
    }

    def service(name: str, port: int, *flags: str, module: str | None = None) -> Plan:
        return Plan(
            name=name,
            command=(
                *(python, "-m", f"services.{module or name}"),
                *("--http.host", options.host, "--http.port", str(port), *flags),
            ),
            ready=f"http://{_reachable(options.host)}:{port}/readyz",
            port=port,
            port_flag="--port",
            environment=shared,
            nice=NICE.get(name, 0),
        )

    result: list[Plan] = []
    if "COREMESH_REDIS_URL" not in os.environ:
        (data / "redis").mkdir(parents=True, exist_ok=True)
        result.append(
            Plan(
                name="redis",
                command=(
                    redis_executable(),
                    *("--bind", "127.0.0.1", "--port", str(options.redis_port)),
                    *("--dir", str(data / "redis"), "--appendonly", "yes", "--appendfsync", "everysec"),
                    *("--save", "", "--daemonize", "no"),
                ),
                ready=f"tcp://127.0.0.1:{options.redis_port}",
                port=options.redis_port,
                port_flag="--redis-port",
            )
        )
    _ = redis_url
    reveal = "--commit-reveal" if options.commit_reveal else "--no-commit-reveal"
    result += [
        Plan(
            name="chain",
            command=(
                *(python, "-m", "devnet", "chain", "--host", "127.0.0.1", "--port", str(options.chain_port)),
                *("--block-time", str(options.block_time_s), "--netuid", "1", "--tempo", str(options.tempo)),
                *("--rate-limit", str(options.rate_limit), "--min-weights", "1", reveal),
                *("--state", str(data / "chain.state"), "--wallets", str(data / "wallets")),
            ),
            ready=f"tcp://127.0.0.1:{options.chain_port}",
            port=options.chain_port,
            port_flag="--chain-port",
            environment=shared,
        ),
        Plan(
            name="miners",
            command=(
                *(python, "-m", "devnet", "miners", "--wallets", str(data / "wallets")),
                *("--network", chain_url, "--netuid", "1", "--street", str(options.street)),
            ),
            ready="",
            environment=shared,
        ),
        service("gating", options.gating_port),
        service("reward", options.reward_port),
        service("weights", options.weights_port),
        service("querier", options.port),
        service("trainer", options.trainer_port, "--querier.role", "trainer", module="querier"),
    ]
    return result


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
