"""What the SDK decodes, as our own types."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from typing import Any

from coremesh.metagraph import Hyperparameters, Metagraph, Neuron, Nominator
from coremesh.text import octets

RAO = 1_000_000_000


def metagraph(
    graph: dict[str, Any],
    delegate: dict[str, Any] | None,
    certificates: Iterable[tuple[Any, dict[str, Any]]] = (),
    *,
    netuid: int,
    version_key: int,
    hotkey: str,
    vpermit_tao_limit: float,
    genesis: str = "",
) -> Metagraph:
    """A snapshot from ``SubnetInfoRuntimeApi.get_metagraph``, ``DelegateInfoRuntimeApi.get_delegate`` and the storage
    map ``NeuronCertificates``."""
    published = {str(hotkey_): certificate(found) for hotkey_, found in certificates}
    neurons = tuple(
        Neuron(
            uid=uid,
            hotkey=str(graph["hotkeys"][uid]),
            coldkey=str(graph["coldkeys"][uid]),
            ip=address(int(axon["ip"]), int(axon["ip_type"])),
            port=int(axon["port"]),
            protocol=int(axon["protocol"]),
            stake=int(graph["total_stake"][uid]) / RAO,
            permit=bool(graph["validator_permit"][uid]),
            last_update=int(graph["last_update"][uid]),
            registered_at=int(graph["block_at_registration"][uid]),
            active=bool(graph["active"][uid]),
            certificate=published.get(str(graph["hotkeys"][uid]), ""),
        )
        for uid, axon in enumerate(graph["axons"])
    )
    return Metagraph(
        netuid=netuid,
        block=int(graph["block"]),
        time_ms=time.time_ns() // 1_000_000,
        neurons=neurons,
        hyperparameters=Hyperparameters(
            tempo=int(graph["tempo"]),
            rate_limit=int(graph["weights_rate_limit"]),
            min_weights=int(graph["min_allowed_weights"]),
            max_weight=int(graph["max_weights_limit"]),
            activity_cutoff=int(graph["activity_cutoff"]),
            version_key=version_key,
            commit_reveal=bool(graph["commit_reveal_weights_enabled"]),
            reveal_period=int(graph["commit_reveal_period"]),
        ),
        nominators=nominators(delegate, netuid),
        hotkey=hotkey,
        vpermit_tao_limit=vpermit_tao_limit,
        genesis=genesis,
    )


def certificate(found: dict[str, Any]) -> str:
    """A neuron certificate as hex: its algorithm in one byte, then the public key. Empty when there is no key."""
    raw = octets(found["public_key"])
    return (bytes([int(found["algorithm"]) & 0xFF]) + raw).hex() if raw else ""


def nominators(delegate: dict[str, Any] | None, netuid: int) -> tuple[Nominator, ...]:
    """Who delegates to us on this subnet or on the root, the largest first."""
    found: list[Nominator] = []
    for coldkey, stakes in (delegate or {}).get("nominators") or ():
        rao = sum(int(amount) for subnet, amount in stakes if int(subnet) in (0, netuid))
        if rao > 0:
            found.append(Nominator(coldkey=str(coldkey), stake=rao / RAO))
    return tuple(sorted(found, key=lambda n: (-n.stake, n.coldkey)))


def address(number: int, kind: int) -> str:
    """The chain's number of an IP address, as text. ``0.0.0.0`` for a number that is none."""
    try:
        return str(ipaddress.IPv6Address(number) if kind == 6 else ipaddress.IPv4Address(number))
    except ipaddress.AddressValueError:
        return "0.0.0.0"
