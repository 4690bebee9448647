"""Whom to ask, and how much of a stranger we put up with."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from services.querier.miners.addresses import Network


@dataclass(frozen=True, slots=True)
class Tls:
    """Speak TLS. ``public_key``: hex of the key that the peer's certificate has to hold, as its neuron certificate on
    the chain names it; ``fingerprint``: SHA-256 of the whole DER certificate in hex. Without either the channel is
    private but the peer is proven by nothing but its address."""

    fingerprint: str = ""
    public_key: str = ""


class Target(msgspec.Struct, frozen=True, gc=False):
    """One miner, as the metagraph names it. ``host`` is an IP address; names are never resolved."""

    uid: int
    hotkey: str
    host: str
    port: int
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class MinerLimits:
    """Bounds of the miner client; seconds, bytes and counts."""

    allow_loopback: bool = False
    """Ask miners on 127.0.0.0/8: for a devnet only."""
    networks: tuple[Network, ...] = ()
    """Ask miners in these networks, public or not: for a devnet whose miners are containers."""
    max_body_bytes: int = 1024 * 1024
    max_header_bytes: int = 16 * 1024
    """Status line, headers and trailers together, interim (1xx) responses included."""
    max_headers: int = 64
    max_completion_chars: int = 65_536
    min_completion_chars: int = 11
    """Shortest completion that counts as an answer."""
    connect_timeout_s: float = 3.0
    """Bounds the connection and the TLS handshake; the miner's own time starts when the request is sent."""
    keep_alive_s: float = 4.0
    """Idle connections are closed by us after this long: below the 5 s of an Axon and of uvicorn."""
    max_sockets: int = 768
    max_waiting: int = 4096
    """Requests that may wait for a socket."""
    breaker_failures: int = 5
    """Failures in a row (less successes since) that open a miner's breaker."""
    breaker_base_s: float = 5.0
    breaker_max_s: float = 300.0
    max_rewards_queued: int = 4096
    max_rewards_in_flight: int = 16
    rewards_timeout_s: float = 4.0
