"""Publishing an axon or a prometheus endpoint."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

from coremesh.text import octets
from devnet.chain.dispatch import Context, Fail, handles

_REFUSED_V4 = {IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255"), IPv4Address("127.0.0.1")}
_MAX_KEY = 64
_REFUSED_V6 = {IPv6Address("::"), IPv6Address("::1"), IPv6Address((1 << 128) - 1)}


@handles("SubtensorModule", "serve_axon")
def serve_axon(
    context: Context,
    netuid: int,
    version: int,
    ip: int,
    port: int,
    ip_type: int,
    protocol: int,
    placeholder1: int,
    placeholder2: int,
) -> None:
    """Store where the signing hotkey answers."""
    axon = {
        "block": context.block,
        "version": version,
        "ip": ip,
        "port": port,
        "ip_type": ip_type,
        "protocol": protocol,
        "placeholder1": placeholder1,
        "placeholder2": placeholder2,
    }
    _serve(context, netuid, "Axons", "AxonServed", axon)


@handles("SubtensorModule", "serve_axon_tls")
def serve_axon_tls(
    context: Context,
    netuid: int,
    version: int,
    ip: int,
    port: int,
    ip_type: int,
    protocol: int,
    placeholder1: int,
    placeholder2: int,
    certificate: Any,
) -> None:
    """``serve_axon``, and with it the public key that callers shall find there. One that is none is left out."""
    serve_axon(context, netuid, version, ip, port, ip_type, protocol, placeholder1, placeholder2)
    raw = octets(certificate)
    if 1 < len(raw) <= 1 + _MAX_KEY:
        found = {"public_key": raw[1:], "algorithm": raw[0]}
        context.state.write("NeuronCertificates", netuid, context.signer, value=found)


@handles("SubtensorModule", "serve_prometheus")
def serve_prometheus(context: Context, netuid: int, version: int, ip: int, port: int, ip_type: int) -> None:
    """Store where the signing hotkey's metrics are."""
    endpoint = {"block": context.block, "version": version, "ip": ip, "port": port, "ip_type": ip_type}
    _serve(context, netuid, "Prometheus", "PrometheusServed", endpoint)


def _serve(context: Context, netuid: int, item: str, event: str, endpoint: dict[str, Any]) -> None:
    state = context.state
    if state.read("Uids", netuid, context.signer) is None:
        raise Fail("HotKeyNotRegisteredInNetwork")
    if endpoint["ip_type"] not in (4, 6):
        raise Fail("InvalidIpType")
    if not _acceptable(endpoint["ip"], endpoint["ip_type"]):
        raise Fail("InvalidIpAddress")
    if endpoint["port"] == 0:
        raise Fail("InvalidPort")
    previous = state.read(item, netuid, context.signer)
    limit = state.read("ServingRateLimit", netuid)
    if previous is not None and context.block - previous["block"] < limit:
        raise Fail("ServingRateLimitExceeded")
    state.write(item, netuid, context.signer, value=endpoint)
    context.emit(event, (netuid, context.signer))


def _acceptable(ip: int, ip_type: int) -> bool:
    """Real chains refuse loopback exactly; other 127.x addresses pass. Zero is how an axon is reset."""
    if ip == 0:
        return ip_type == 4
    if ip_type == 4:
        return ip < 1 << 32 and IPv4Address(ip) not in _REFUSED_V4
    return IPv6Address(ip) not in _REFUSED_V6
