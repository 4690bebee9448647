"""Only public unicast addresses pass, in whatever form they are written."""

from __future__ import annotations

import pytest

from services.querier.miners.addresses import refusal

PUBLIC = ["8.8.8.8", "1.1.1.1", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "172.15.0.1"]
PUBLIC += ["172.32.0.1", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"]
BLOCKED = ["0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.8.9.10", "169.254.169.254"]
BLOCKED += [
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
]
BLOCKED += ["198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"]
BLOCKED += ["::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"]
TRANSLATED = [
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:7f00:1",
    "::8.8.8.8",
    "::7f00:1",
    "64:ff9b::8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "3fff::1",
    "5f00::1",
    "4000::1",
    "100::1",
]
NAMES = [
    "",
    "localhost",
    "example.com",
    "127.1",
    "0x7f.0.0.1",
    "2130706433",
    "0177.0.0.1",
    "8.8.8.8 ",
    "8.8.8.8:80",
]
NAMES += ["[::1]", "8.8.8.8\r\nhost: x", "2606:4700::1%0", "１.1.1.1"]


@pytest.mark.parametrize("host", PUBLIC)
def test_public(host: str) -> None:
    assert refusal(host, False) == ""


@pytest.mark.parametrize("host", BLOCKED + TRANSLATED + NAMES)
def test_blocked(host: str) -> None:
    assert refusal(host, False) != ""


@pytest.mark.parametrize("host", [*PUBLIC, "127.0.0.1", "127.255.255.254", "::ffff:127.0.0.1"])
def test_a_devnet_adds_127_and_nothing_else(host: str) -> None:
    assert refusal(host, True) == ""


@pytest.mark.parametrize(
    "host", [h for h in BLOCKED + TRANSLATED + NAMES if "127." not in h and h != "::ffff:7f00:1"]
)
def test_a_devnet_still_blocks_the_rest(host: str) -> None:
    assert refusal(host, True) != ""
