from __future__ import annotations

import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from coremesh.wire.btauth import Signer
from coremesh.wire.keys import keypair_from_uri
from devnet.corpus import load_facts
from devnet.miners.answering import tardy
from devnet.miners.phrases import OFF_TOPIC, VAGUE
from devnet.roster import RESIDENTS
from tests.integration.devnet_miners.street import Neighbours, running_street

VACCINES = "How do vaccines train the immune system?"
ANSWER = next(fact.answer for fact in load_facts() if fact.question == VACCINES)
HONEST = [one.name for one in RESIDENTS if one.character in ("specialist", "generalist", "vague", "offtopic")]
FAIR = {"roles": ["user"], "messages": [VACCINES], "timeout": 4.0}


def test_a_specialist_answers_a_signed_question(street: Neighbours) -> None:
    answer = street.ask("specialist-medicine", VACCINES)
    assert (answer.status_code, answer.json()) == (200, {"completion": ANSWER})
    assert dict(answer.headers) == {
        "content-type": "application/json",
        "content-length": answer.headers["content-length"],
    }


@pytest.mark.parametrize("name", HONEST)
def test_nothing_in_an_answer_tells_who_it_is(street: Neighbours, name: str) -> None:
    answer = street.ask(name, "What is a fugue in music?")
    assert set(answer.json()) == {"completion"}
    assert set(answer.headers) == {"content-type", "content-length"}
    text = answer.json()["completion"].lower()
    assert not any(word in text for word in ("specialist", "generalist", "vague", "off-topic", name))


def test_vague_and_off_topic_ones_are_what_they_are(street: Neighbours) -> None:
    assert street.ask("vague-1", VACCINES).json()["completion"] in VAGUE
    assert street.ask("offtopic", VACCINES).json()["completion"] in OFF_TOPIC


def test_a_caller_that_takes_events_gets_the_same_in_pieces(street: Neighbours) -> None:
    answer = street.ask("specialist-medicine", VACCINES, accept="text/event-stream, application/json")
    assert answer.headers["content-type"] == "text/event-stream"
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    deltas = [json.loads(event.removeprefix("data: "))["delta"] for event in events]
    assert len(deltas) > 10
    assert "".join(deltas) == ANSWER


def test_a_request_for_a_question_gets_one(street: Neighbours) -> None:
    asked = street.ask("specialist-music", "Ask a random, specific question without its answer.")
    training = {text for fact in load_facts() if fact.topic == "music" for text in fact.training}
    assert asked.json()["completion"] in training


def test_a_summary_is_the_beginning(street: Neighbours) -> None:
    text = "Summarise this: One is first. Two is second. Three is third."
    assert street.ask("vague-1", text).json() == {"completion": "One is first. Two is second."}


def test_rewards_are_taken(street: Neighbours) -> None:
    notice = {"roles": ["user"], "messages": [VACCINES], "completion": ANSWER, "rewards": [0.5]}
    answer = street.post("specialist-medicine", notice, "/backward")
    assert (answer.status_code, answer.json()) == (200, {})


def test_health_is_open_and_other_paths_are_not_there(street: Neighbours) -> None:
    assert httpx.get(street.url("vague-1", "/healthz"), trust_env=False).json() == {"status": "alive"}
    for answer in (
        httpx.get(street.url("vague-1"), trust_env=False),
        street.post("vague-1", FAIR, "/elsewhere"),
    ):
        assert answer.status_code == 404
        assert set(answer.json()) == {"code", "message", "remedy"}


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"code", "message", "remedy"}
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("name", ["specialist-medicine", "slow", "flaky"])
def test_a_replay_is_refused(street: Neighbours, name: str) -> None:
    notice = {"roles": ["user"], "messages": ["x"], "completion": "y", "rewards": []}
    body = json.dumps(notice).encode()
    headers = street.headers(name, body, "/backward")
    url = street.url(name, "/backward")
    first, second = (httpx.post(url, content=body, headers=headers, trust_env=False) for _ in range(2))
    assert first.status_code == 200
    assert refusal(second) == (401, "replayed_request")


@pytest.mark.parametrize("name", ["specialist-medicine", "vague-1", "slow", "flaky"])
def test_who_does_not_sign_rightly_is_refused(street: Neighbours, name: str) -> None:
    body = json.dumps(FAIR).encode()
    good = street.headers(name, body)
    stale = street.signer.headers("POST", "/forward", body, street.hotkey(name), time.time_ns() - 11 * 10**9)
    other = Signer(keypair_from_uri("//other")).headers("POST", "/forward", body, street.hotkey(name))
    for headers, code in (
        ({}, "malformed_auth"),
        (street.headers("generalist-1", body), "wrong_receiver"),
        (street.headers(name, body + b" "), "bad_signature"),
        (street.headers(name, body, "/backward"), "bad_signature"),
        ({**good, "X-Bittensor-Signature": other["X-Bittensor-Signature"]}, "bad_signature"),
        ({**good, "X-Bittensor-Crypto": "ed25519"}, "malformed_auth"),
        (stale, "stale_request"),
    ):
        answer = httpx.post(street.url(name), content=body, headers=headers, trust_env=False)
        assert refusal(answer) == (401, code)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"not json", (400, "bad_request")),
        (b"[" * 100_000, (400, "bad_request")),
        ({"roles": ["user"]}, (400, "bad_request")),
        ({"roles": [], "messages": []}, (400, "bad_request")),
        ({"roles": ["user"], "messages": [5]}, (400, "bad_request")),
        ({"roles": ["user", "user"], "messages": ["x"]}, (400, "bad_messages")),
        ({"roles": ["king"], "messages": ["x"]}, (400, "bad_messages")),
        (b" " * (1024 * 1024 + 1), (413, "too_long")),
    ],
    ids=["text", "deep", "missing", "empty", "number", "uneven", "role", "huge"],
)
def test_bad_requests_are_refused_with_a_remedy(
    street: Neighbours, content: object, expected: tuple[int, str]
) -> None:
    assert refusal(street.post("specialist-medicine", content)) == expected


def test_a_slow_one_is_mostly_too_late_for_training_and_in_time_for_users() -> None:
    rng = random.Random(0)
    paces = [tardy(rng) for _ in range(2000)]
    assert 0.15 < sum(pace < 2 for pace in paces) / 2000 < 0.35
    assert not any(2 < pace < 4.2 for pace in paces)
    assert max(paces) < 9


def test_a_flaky_one_answers_half_of_the_time_and_fails_in_three_ways() -> None:
    with running_street("flaky", seed=5) as street:

        def once(number: int) -> str:
            try:
                answer = street.post("flaky", FAIR, timeout=1.5)
            except httpx.ReadTimeout:
                return "late"
            except httpx.RemoteProtocolError:
                return "closed"
            return (
                "ok" if answer.status_code == 200 and answer.json()["completion"] else str(answer.status_code)
            )

        with ThreadPoolExecutor(12) as pool:
            seen = Counter(pool.map(once, range(72)))
    assert set(seen) == {"ok", "late", "closed", "500"}
    assert 20 <= seen["ok"] <= 52
