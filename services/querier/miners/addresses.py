"""Which addresses we may speak to: public unicast, and nothing that leads back into a network of ours.

Every list is an excerpt of IANA's special-purpose address registries (RFC 6890 and its updates). Forms
that carry an IPv4 address inside an IPv6 one (6to4, Teredo, NAT64, IPv4-compatible) are refused as a whole: an axon
has no need of them. IPv4-mapped addresses are taken as the IPv4 address that they are.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_BLOCKED_V4 = tuple(
    ipaddress.ip_network(net)
    for net in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_BLOCKED_V6 = tuple(
    ipaddress.ip_network(net)
    for net in (
        "2001::/23",  # Teredo, ORCHID, benchmarks and other protocol assignments
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks that ``texts`` name, such as ``172.16.0.0/12``. Raises ValueError for one that is none."""
    return tuple(ipaddress.ip_network(text) for text in texts)


@lru_cache(maxsize=16_384)
def refusal(host: str, allow_loopback: bool, networks: tuple[Network, ...] = ()) -> str:
    """Why ``host`` may not be spoken to, or an empty string when it may. Names are refused: only addresses pass.

    An address in one of ``networks`` passes wherever it leads: an operator has named it.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "not an IP address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return "a scoped address"
        if address.ipv4_mapped is None:
            if any(address in net for net in networks):
                return ""
            if address not in _GLOBAL_V6:
                return "not global unicast"
            return "special-purpose address" if any(address in net for net in _BLOCKED_V6) else ""
        address = address.ipv4_mapped
    if allow_loopback and address in _LOOPBACK:
        return ""
    if any(address in net for net in networks):
        return ""
    return "special-purpose address" if any(address in net for net in _BLOCKED_V4) else ""
