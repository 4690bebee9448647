from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterator

import httpx
import pytest

from coremesh.wire.btauth import Signer
from coremesh.wire.keys import keypair_from_uri
from miner.backends.protocol import Turns
from miner.gate import Stakes
from tests.unit.miner.servers import ASKED, MINER, VALIDATOR, AskedMiner, running_miner

STRANGER = Signer(keypair_from_uri("//stranger"))


class Echo:
    """A Backend that counts words, so that these tests need no model."""

    async def start(self) -> None: ...

    async def stream(self, turns: Turns, *, timeout_s: float) -> AsyncGenerator[str, None]:
        yield f"{len(turns)} turns, {len(turns[-1]['content'].split())} words"

    async def problem(self) -> str | None:
        return None

    async def close(self) -> None: ...


@pytest.fixture(scope="module")
def miner() -> Iterator[AskedMiner]:
    with running_miner(Echo) as miner:
        yield miner


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"code", "message", "remedy"}, answer.text
    return answer.status_code, answer.json()["code"]


def test_a_signed_request_is_answered(miner: AskedMiner) -> None:
    answer = miner.post()
    assert (answer.status_code, answer.json()) == (200, {"completion": "2 turns, 3 words"})


def test_the_query_is_part_of_what_is_signed(miner: AskedMiner) -> None:
    assert miner.post(path="/forward?model=a%20b").status_code == 200
    body = json.dumps(ASKED).encode()
    answer = httpx.post(
        f"{miner.url}/forward?model=c",
        content=body,
        headers=miner.headers(body, "/forward?model=a"),
        trust_env=False,
    )
    assert refusal(answer) == (401, "bad_signature")


def test_a_replay_is_refused(miner: AskedMiner) -> None:
    body = json.dumps(ASKED).encode()
    headers = miner.headers(body)
    first, second = (
        httpx.post(f"{miner.url}/forward", content=body, headers=headers, trust_env=False) for _ in range(2)
    )
    assert first.status_code == 200
    assert refusal(second) == (401, "replayed_request")


def test_who_does_not_sign_rightly_is_refused_before_the_body_is_read(miner: AskedMiner) -> None:
    body = b"{ this is not even JSON"
    plain = {"content-type": "application/json"}
    other = Signer(keypair_from_uri("//other")).headers("POST", "/forward", body, MINER)
    cases: list[tuple[dict[str, str], str]] = [
        (plain, "malformed_auth"),
        ({**plain, **VALIDATOR.headers("POST", "/forward", body, STRANGER.hotkey)}, "wrong_receiver"),
        (miner.headers(body + b" "), "bad_signature"),
        ({**miner.headers(body), "X-Bittensor-Signature": other["X-Bittensor-Signature"]}, "bad_signature"),
        ({**miner.headers(body), "X-Bittensor-Crypto": "ed25519"}, "malformed_auth"),
        (
            {**plain, **VALIDATOR.headers("POST", "/forward", body, MINER, time.time_ns() - 11 * 10**9)},
            "stale_request",
        ),
        (
            {**plain, **VALIDATOR.headers("POST", "/forward", body, MINER, time.time_ns() + 5 * 10**9)},
            "stale_request",
        ),
    ]
    for headers, code in cases:
        answer = httpx.post(f"{miner.url}/forward", content=body, headers=headers, trust_env=False)
        assert refusal(answer) == (401, code)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{ this is not even JSON", (400, "bad_request")),
        (b"[" * 100_000, (400, "bad_request")),
        ({"messages": ["x"]}, (400, "bad_request")),
        ({"roles": [], "messages": []}, (400, "bad_request")),
        ({"roles": ["user"], "messages": [None]}, (400, "bad_request")),
        ({"roles": ["king"], "messages": ["x"]}, (400, "bad_request")),
        ({"roles": ["user"], "messages": ["x", "y"]}, (400, "bad_messages")),
        ({"roles": ["user"], "messages": ["  "]}, (400, "bad_messages")),
        ({**ASKED, "timeout": 0}, (400, "bad_request")),
        ({**ASKED, "timeout": 1e9}, (400, "bad_request")),
        ({**ASKED, "timeout": "soon"}, (400, "bad_request")),
        ({"roles": ["user"] * 2000, "messages": ["x"] * 2000}, (400, "bad_request")),
        (b" " * (1024 * 1024 + 1), (413, "too_long")),
    ],
)
def test_bad_requests_are_refused_with_a_remedy(
    miner: AskedMiner, content: object, expected: tuple[int, str]
) -> None:
    assert refusal(miner.post(content)) == expected


def test_another_content_type_is_refused(miner: AskedMiner) -> None:
    assert refusal(miner.post(**{"content-type": "text/plain"})) == (415, "bad_request")


def test_rewards_are_noted(miner: AskedMiner) -> None:
    notice = {"roles": ["user"], "messages": ["x"], "completion": "y", "rewards": [0.5, -1.0]}
    answer = miner.post(notice, "/backward")
    assert (answer.status_code, answer.json()) == (200, {})
    assert refusal(miner.post({**notice, "rewards": ["much"]}, "/backward")) == (400, "bad_request")


def test_the_api_is_described(miner: AskedMiner) -> None:
    paths = httpx.get(f"{miner.url}/openapi.json", trust_env=False).json()["paths"]
    schema = paths["/forward"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["roles", "messages"]
    assert {"/forward", "/backward", "/healthz", "/readyz", "/metrics"} <= set(paths)


def test_only_listed_validators_where_there_is_a_list() -> None:
    with running_miner(Echo, allowed=frozenset({VALIDATOR.hotkey})) as miner:
        assert miner.post().status_code == 200
        assert refusal(miner.post(signer=STRANGER)) == (403, "forbidden")


def test_only_validators_with_stake_where_that_is_asked_for() -> None:
    stakes = Stakes()
    with running_miner(Echo, allowed=frozenset({VALIDATOR.hotkey}), min_stake=100.0, stakes=stakes) as miner:
        assert refusal(miner.post(signer=STRANGER)) == (503, "chain_unavailable")
        stakes.by_hotkey = {STRANGER.hotkey: 99.9}
        assert refusal(miner.post(signer=STRANGER)) == (403, "forbidden")
        stakes.by_hotkey = {STRANGER.hotkey: 100.0}
        assert miner.post(signer=STRANGER).status_code == 200
        # A listed one needs no stake.
        assert miner.post().status_code == 200
