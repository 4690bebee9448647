"""Redis, the chain, the wallet, and whether the hotkey is a validator."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from coremesh.cli import show
from coremesh.cli.doctor.run import Patient
from coremesh.cli.findings import Finding, fail, ok, warn
from coremesh.errors import BadSetting, BadWallet, CoremeshError, HistoryUnavailable
from coremesh.history.probe import probe
from coremesh.history.redis import RedisHistory
from coremesh.settings import ChainSettings, RedisSettings, WalletSettings
from coremesh.supervisor.redis_binary import redis_executable

LEAST_REDIS = (6, 2)
SKEW_S = 2.0
"""Miners refuse a signature from this far ahead."""
TIMEOUT_S = 5.0
NETWORKS = {
    "finney": "wss://entrypoint-finney.opentensor.ai:443",
    "test": "wss://test.finney.opentensor.ai:443",
    "archive": "wss://archive.chain.opentensor.ai:443",
    "local": "ws://127.0.0.1:9944",
}
"""Entry points by the names that the SDK takes."""


def redis(patient: Patient) -> Iterator[Finding]:
    """Reachable, new enough, kept on disk, and never dropping what it holds."""
    if RedisSettings not in patient.settings:
        return
    url = patient.settings[RedisSettings].address
    shown = show.without_password(patient.settings[RedisSettings].url)
    try:
        facts = probe(url, timedelta(seconds=TIMEOUT_S))
    except HistoryUnavailable as error:
        if not patient.configured:
            yield from _own_redis()
            return
        yield fail(
            "redis_away", "redis", f"{error.message} ({shown})", "Start it, or set COREMESH_REDIS_URL."
        )
        return
    yield from _version_of(facts.version, shown)
    if not facts.append_ok:
        yield fail("redis_disk", "redis", "Redis cannot write its append-only file", "Is its disk full?")
    if facts.appendonly:
        yield ok("redis_persistence", "redis", "events are kept on disk (appendonly yes)")
    elif facts.saves:
        message = "Redis only saves snapshots: what came after the last one is lost with it"
        yield warn("redis_persistence", "redis", message, "appendonly yes, appendfsync everysec")
    else:
        message = "Redis keeps nothing on disk: the event history is lost with it"
        yield fail("redis_persistence", "redis", message, "appendonly yes, appendfsync everysec")
    limit = (
        f"{facts.used / 2**20:.0f} MiB used of {facts.maxmemory / 2**20:.0f}"
        if facts.maxmemory
        else "no limit"
    )
    if facts.policy != "noeviction":
        level = fail if facts.maxmemory else warn
        message = f"Redis drops keys when its memory is full (maxmemory-policy {facts.policy}, {limit})"
        yield level("redis_policy", "redis", message, "redis-cli config set maxmemory-policy noeviction")
    elif facts.maxmemory and facts.used > 0.8 * facts.maxmemory:
        message = f"Redis' memory is nearly full: {limit}"
        yield warn("redis_memory", "redis", message, "Raise maxmemory, or lower weights.keep_events.")
    else:
        yield ok("redis_policy", "redis", f"maxmemory-policy noeviction, {limit}")
    if abs(facts.clock_ahead_s) > SKEW_S:
        message = f"Redis' clock is {facts.clock_ahead_s:+.1f} s from this machine's"
        yield warn("clock_skew", "clock", message, "Run NTP on both machines.")


def _own_redis() -> Iterator[Finding]:
    try:
        binary = redis_executable()
    except BadSetting as error:
        yield fail("redis_missing", "redis", error.message, error.remedy)
    else:
        yield ok("redis", "redis", f"no Redis runs yet; `coremesh up` starts one of its own ({binary})")


def _version_of(version: str, shown: str) -> Iterator[Finding]:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < LEAST_REDIS:
        yield fail(
            "redis_version", "redis", f"Redis {version} at {shown} is too old", "Install Redis 6.2 or newer."
        )
    else:
        yield ok("redis_version", "redis", f"Redis {version} at {shown}")


def chain(patient: Patient) -> Iterator[Finding]:
    """Whether a node answers a websocket's handshake, and what its clock says."""
    if ChainSettings not in patient.settings or not patient.has("weights", "querier"):
        return
    named = patient.settings[ChainSettings].network
    url = NETWORKS.get(named, named)
    if not patient.configured:
        yield ok("chain", "chain", "no settings: `coremesh up` brings a chain of its own")
        return
    try:
        status, date = handshake(url, TIMEOUT_S)
    except (OSError, ValueError) as error:
        message = (
            f"the chain's node {show.without_password(url)} does not answer: {error or type(error).__name__}"
        )
        yield fail(
            "chain_away",
            "chain",
            message,
            "Set COREMESH_CHAIN_NETWORK; is port 443 or 9944 open to the outside?",
        )
        return
    if status != 101:
        message = f"{show.without_password(url)} answers, and is no websocket (HTTP {status})"
        yield fail(
            "chain_away", "chain", message, "COREMESH_CHAIN_NETWORK takes finney, test, or ws:// of a node."
        )
        return
    yield ok("chain", "chain", f"the node {show.without_password(url)} answers")
    if date is not None:
        ahead = date - time.time()
        if abs(ahead) > SKEW_S + 1:  # the header has whole seconds, and the answer was on its way
            message = f"this clock is {-ahead:+.0f} s from that of the chain's node; miners refuse signatures 2 s off"
            yield fail("clock_skew", "clock", message, "Run NTP: systemd-timesyncd or chrony.")


def handshake(url: str, timeout_s: float) -> tuple[int, float | None]:
    """A websocket's opening: the answer's status, and its Date as seconds since 1970. Raises OSError, ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError("it takes finney, test, or a ws:// or wss:// address")
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    with socket.create_connection((parts.hostname, port), timeout=timeout_s) as plain:
        stream = plain
        if parts.scheme == "wss":
            stream = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
        key = base64.b64encode(os.urandom(16)).decode()
        stream.sendall(
            f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.hostname}:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head and len(head) < 16384:
            part = stream.recv(4096)
            if not part:
                break
            head += part
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) < 2 or not words[1].isdigit():
        raise ValueError("that is no HTTP")
    dates = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("date:")]
    try:
        return int(words[1]), parsedate_to_datetime(dates[0]).timestamp() if dates else None
    except ValueError:
        return int(words[1]), None


def wallet(patient: Patient) -> Iterator[Finding]:
    """The hotkey can be read, by nobody else; the coldkey is not here."""
    users = [service for service in patient.services if service.wallet]
    if not users or WalletSettings not in patient.settings or find_spec("bittensor") is None:
        return
    if not patient.configured:
        yield ok("wallet", "wallet", "no settings: `coremesh up` makes wallets of its own")
        return
    settings = patient.settings[WalletSettings]
    from coremesh.wire.wallets import load_keypair

    folder = settings.path.expanduser() / settings.name
    try:
        address = load_keypair(settings.path.expanduser(), settings.name, settings.hotkey).ss58_address
    except BadWallet as error:
        yield fail(error.code, "wallet", error.message, error.remedy)
        return
    file = folder / "hotkeys" / settings.hotkey
    yield ok("wallet", "wallet", f"hotkey {address}")
    yield from _permissions(file)
    if (folder / "coldkey").exists():
        message = f"the coldkey {folder / 'coldkey'} is on this machine; no service reads it"
        yield warn("coldkey", "wallet", message, "Keep it on another machine; coldkeypub.txt may stay.")
    yield from _registered(patient, address)


def _permissions(file: Path) -> Iterator[Finding]:
    try:
        mode = file.stat().st_mode & 0o777
    except OSError:
        return
    if mode & 0o077:
        yield warn(
            "hotkey_mode",
            "wallet",
            f"{file} may be read by other users (mode {mode:04o})",
            f"chmod 600 {file}",
        )


def _registered(patient: Patient, address: str) -> Iterator[Finding]:
    """By the newest metagraph that the weights service has published."""
    if RedisSettings not in patient.settings or ChainSettings not in patient.settings:
        return
    url, netuid = patient.settings[RedisSettings].address, patient.settings[ChainSettings].netuid

    async def read():
        history = RedisHistory(url, netuid, timeout=timedelta(seconds=TIMEOUT_S))
        try:
            return await history.metagraph()
        finally:
            await history.close()

    try:
        metagraph = asyncio.run(read())
    except CoremeshError:
        return  # said already: Redis is away
    about = f"subnet {netuid}"
    if metagraph is None:
        message = "whether the hotkey is registered is not known yet: no metagraph has been published"
        yield warn(
            "not_synced", about, message, "Start the weights service; it publishes one within seconds."
        )
        return
    mine = [neuron for neuron in metagraph.neurons if neuron.hotkey == address]
    if not mine:
        message = f"the hotkey is not registered, as of block {metagraph.block}"
        yield fail("not_registered", about, message, f"btcli subnets register --netuid {netuid}")
        return
    (neuron,) = mine[:1]
    said = f"uid {neuron.uid}, stake {neuron.stake:,.0f}, as of block {metagraph.block}"
    if not neuron.permit:
        message = f"the hotkey has no validator permit ({said}): its weights would not count"
        yield fail("no_permit", about, message, "More stake; permits are given at the end of an epoch.")
    else:
        yield ok("registered", about, f"registered with a validator permit: {said}")
