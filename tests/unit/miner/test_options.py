from __future__ import annotations

import re

import pytest

from coremesh.errors import BadSetting
from coremesh.wire.axon import Endpoint
from miner.options import parse

OPENAI = ["--backend", "openai", "--base-url", "http://127.0.0.1:8000/v1", "--model", "m"]
HOTKEY = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"


def test_what_is_published_is_the_address_given_or_the_one_listened_on() -> None:
    assert parse([*OPENAI, "--host", "203.0.113.9"]).endpoint == Endpoint("203.0.113.9", 8091)
    given = ["--external-ip", "198.51.100.7", "--external-port", "80"]
    assert parse([*OPENAI, *given]).endpoint == Endpoint("198.51.100.7", 80)
    assert parse([*OPENAI, "--no-serve"]).endpoint is None


def test_validators_are_listed_with_commas_or_again() -> None:
    other = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
    options = parse([*OPENAI, "--no-serve", "--allow", f"{HOTKEY}, {other}", "--allow", HOTKEY])
    assert options.allowed == {HOTKEY, other}
    assert options.min_stake is None


def test_the_api_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_MODEL_KEY", "s3cret")
    options = parse([*OPENAI, "--no-serve", "--api-key-env", "MY_MODEL_KEY"])
    assert options.api_key == "s3cret"
    assert "s3cret" not in repr(options)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--backend", "openai", "--model", "m"], "--base-url is missing"),
        (OPENAI, "--external-ip is missing, and the chain must be told where validators reach this miner"),
        ([*OPENAI, "--external-ip", "example.org"], "--external-ip: 'example.org' is no IP address"),
        ([*OPENAI, "--no-serve", "--allow", "5Nobody"], "--allow: '5Nobody' is no ss58 address"),
        ([*OPENAI, "--no-serve", "--port", "70000"], "--port: got 70000; it takes 1 to 65535"),
        ([*OPENAI, "--host", "::1", "--external-port", "70000"], "--external-port: got 70000"),
        ([*OPENAI, "--no-serve", "--min-stake", "nan"], "--min-stake: got nan; it takes 0 to"),
        ([*OPENAI, "--no-serve", "--max-timeout", "nan"], "--max-timeout: got nan; it takes 0.1 to 3600"),
        (
            [*OPENAI, "--no-serve", "--api-key-env", "NOT_SET"],
            "--api-key-env: the environment has no NOT_SET",
        ),
    ],
)
def test_what_is_wrong_is_said(words: list[str], sentence: str) -> None:
    with pytest.raises(BadSetting, match=re.escape(sentence)) as raised:
        parse(words)
    assert raised.value.remedy
