"""Miners in containers: the networks that a querier may reach though they are not public."""

from __future__ import annotations

import pytest

from coremesh.errors import BadSetting
from coremesh.settings import QuerierSettings, load
from devnet.miners.cli import main as miners
from services.querier.miners.addresses import parse_networks, refusal

NETWORKS = parse_networks(["172.28.0.0/16", "fd00:1::/32"])


@pytest.mark.parametrize("host", ["172.28.0.9", "::ffff:172.28.255.1", "fd00:1::7", "8.8.8.8"])
def test_named_networks_pass(host: str) -> None:
    assert refusal(host, False, NETWORKS) == ""


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("172.29.0.9", "special-purpose address"),
        ("127.0.0.1", "special-purpose address"),
        ("169.254.169.254", "special-purpose address"),
        ("::ffff:10.0.0.1", "special-purpose address"),
        ("fd00:2::7", "not global unicast"),
        ("fd00:1::7%eth0", "a scoped address"),
        ("miners", "not an IP address"),
    ],
)
def test_what_is_not_named_stays_refused(host: str, reason: str) -> None:
    assert refusal(host, False, NETWORKS) == reason


def test_the_setting_takes_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load([QuerierSettings])[QuerierSettings].allow_networks == ()
    monkeypatch.setenv("COREMESH_QUERIER_ALLOW_NETWORKS", '["10.0.0.0/8", "fd00::/8"]')
    assert load([QuerierSettings])[QuerierSettings].allow_networks == ("10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize("given", ["10.0.0.1/8", "everywhere", "10.0.0.0/33"])
def test_the_setting_refuses_what_is_no_network(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("COREMESH_QUERIER_ALLOW_NETWORKS", f'["{given}"]')
    with pytest.raises(BadSetting, match=r"COREMESH_QUERIER_ALLOW_NETWORKS: got"):
        load([QuerierSettings])


def test_the_miners_refuse_a_host_without_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert miners(["--host", "no-such-host.invalid"]) == 2
    assert (
        "miners: --host no-such-host.invalid: neither an IPv4 address nor a name" in capsys.readouterr().err
    )
