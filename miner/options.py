"""The miner's command line."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coremesh.command import Parser
from coremesh.errors import BadSetting
from coremesh.wire.axon import Endpoint
from coremesh.wire.keys import is_address


@dataclass(frozen=True, slots=True)
class Options:
    """What one miner is started with; the key is never shown."""

    backend: str
    base_url: str
    model: str
    api_key: str = field(repr=False)
    device: str
    max_tokens: int
    temperature: float
    concurrency: int
    wallet_path: Path
    wallet_name: str
    wallet_hotkey: str
    network: str
    netuid: int
    host: str
    port: int
    endpoint: Endpoint | None
    """What is published on the chain; None with --no-serve."""
    chain_deadline_s: float
    sync_s: float
    allowed: frozenset[str]
    min_stake: float | None
    max_timeout_s: float
    drain_s: float
    log_level: str
    log_format: str


def parse(argv: Sequence[str]) -> Options:
    """Read the command line. Raises BadSetting; argparse exits with code 2 by itself."""
    given = _parser().parse_args(argv)
    if given.backend == "openai" and not given.base_url:
        raise BadSetting("--base-url is missing", remedy="Name the API root, as in http://127.0.0.1:8000/v1.")
    for flag, value, low, high in (
        ("--port", given.port, 1, 65535),
        ("--external-port", given.external_port, 0, 65535),
        ("--netuid", given.netuid, 0, 65535),
        ("--max-tokens", given.max_tokens, 1, 100_000),
        ("--temperature", given.temperature, 0, 5),
        ("--concurrency", given.concurrency, 1, 4096),
        ("--max-timeout", given.max_timeout, 0.1, 3600),
        ("--chain-deadline", given.chain_deadline, 1, 86_400),
        ("--sync", given.sync, 1, 86_400),
        ("--drain", given.drain, 0, 300),
        ("--min-stake", given.min_stake or 0.0, 0, float("inf")),
    ):
        # A NaN is in no range.
        if not low <= value <= high:
            raise BadSetting(f"{flag}: got {value}; it takes {low} to {high}", remedy="Correct it.")
    allowed = [one.strip() for one in ",".join(given.allow).split(",") if one.strip()]
    for one in allowed:
        if not is_address(one):
            raise BadSetting(
                f"--allow: {one!r} is no ss58 address", remedy="Give hotkeys, separated by commas."
            )
    return Options(
        backend=given.backend,
        base_url=given.base_url,
        model=given.model,
        api_key=_api_key(given.api_key_env),
        device=given.device,
        max_tokens=given.max_tokens,
        temperature=given.temperature,
        concurrency=given.concurrency,
        wallet_path=given.wallet_path,
        wallet_name=given.wallet_name,
        wallet_hotkey=given.wallet_hotkey,
        network=given.network,
        netuid=given.netuid,
        host=given.host,
        port=given.port,
        endpoint=_endpoint(given) if given.serve else None,
        chain_deadline_s=given.chain_deadline,
        sync_s=given.sync,
        allowed=frozenset(allowed),
        min_stake=given.min_stake,
        max_timeout_s=given.max_timeout,
        drain_s=given.drain,
        log_level=given.log_level,
        log_format=given.log_format,
    )


def _api_key(variable: str) -> str:
    if not variable:
        return ""
    if not os.environ.get(variable):
        raise BadSetting(
            f"--api-key-env: the environment has no {variable}", remedy=f"Set it: export {variable}=..."
        )
    return os.environ[variable]


def _endpoint(given: argparse.Namespace) -> Endpoint:
    ip = given.external_ip or given.host
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        raise BadSetting(f"--external-ip: {ip!r} is no IP address", remedy="Give it in digits.") from None
    if address.is_unspecified:
        raise BadSetting(
            "--external-ip is missing, and the chain must be told where validators reach this miner",
            remedy="Give the public address with --external-ip, or do not publish it: --no-serve.",
        )
    return Endpoint(str(address), given.external_port or given.port)


def _parser() -> Parser:
    parser = Parser(
        prog="coremesh miner",
        description="The reference miner: a language model served to validators over signed HTTP.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    model = parser.add_argument_group("model")
    model.add_argument("--backend", choices=("openai", "transformers"), required=True)
    model.add_argument("--base-url", default="", help="openai: the API root of the server")
    model.add_argument(
        "--model", required=True, help="openai: its name; transformers: a directory or hub name"
    )
    model.add_argument(
        "--api-key-env", default="", metavar="NAME", help="environment variable with the API key"
    )
    model.add_argument("--device", default="auto", help="transformers: auto, cpu, cuda or cuda:N")
    model.add_argument("--max-tokens", type=int, default=256, help="longest completion")
    model.add_argument("--temperature", type=float, default=0.7, help="0 always takes the likeliest token")
    model.add_argument(
        "--concurrency", type=int, default=16, help="conversations at once or waiting; beyond: 429"
    )
    wallet = parser.add_argument_group("wallet")
    wallet.add_argument("--wallet-path", type=Path, default=Path("~/.bittensor/wallets"))
    wallet.add_argument("--wallet-name", default="default")
    wallet.add_argument("--wallet-hotkey", default="default")
    chain = parser.add_argument_group("chain")
    chain.add_argument("--network", default="finney", help="finney, test, or the ws:// address of a node")
    chain.add_argument("--netuid", type=int, default=1)
    chain.add_argument(
        "--serve", action=argparse.BooleanOptionalAction, default=True, help="publish the axon"
    )
    chain.add_argument(
        "--chain-deadline", type=float, default=300.0, help="seconds to get the axon published"
    )
    chain.add_argument("--sync", type=float, default=300.0, help="seconds between reads of the stakes")
    http = parser.add_argument_group("serving")
    http.add_argument("--host", default="0.0.0.0", help="address to listen on")
    http.add_argument("--port", type=int, default=8091)
    http.add_argument("--external-ip", default="", help="address to publish; default: --host")
    http.add_argument("--external-port", type=int, default=0, help="port to publish; 0: --port")
    http.add_argument("--max-timeout", type=float, default=60.0, help="longest time given to one request")
    http.add_argument(
        "--drain", type=float, default=10.0, help="seconds that open requests get after SIGTERM"
    )
    access = parser.add_argument_group("who may ask")
    access.add_argument("--allow", action="append", default=[], metavar="HOTKEY,...", help="these validators")
    access.add_argument("--min-stake", type=float, help="validators with at least this stake")
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    logs.add_argument("--log-format", choices=("json", "console"), default="console")
    return parser
