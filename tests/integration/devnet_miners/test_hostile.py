from __future__ import annotations

import json
import socket
import unicodedata
import zlib

import httpx
import pytest

from devnet.roster import RESIDENTS
from tests.integration.devnet_miners.street import Neighbours
from tests.wait import wait_until

ASKED = "How do vaccines train the immune system?"


def test_the_redirect_leads_into_the_validators_own_machine(street: Neighbours) -> None:
    answer = street.ask("hostile-redirect", ASKED)
    assert answer.status_code == 307
    assert answer.headers["location"] == "http://127.0.0.1:8080/inference"


def test_the_drip_goes_on_byte_by_byte(street: Neighbours) -> None:
    with street.raw("hostile-drip") as connection:
        seen = b""
        arrivals = 0
        while arrivals < 6:
            part = connection.recv(65536)
            assert part
            arrivals += 1
            seen += part
    head, _, body = seen.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(body) < 60


def test_the_bomb_is_gzip_whatever_was_accepted_and_unpacks_to_a_quarter_of_a_gigabyte(
    street: Neighbours,
) -> None:
    body = json.dumps({"roles": ["user"], "messages": [ASKED]}).encode()
    headers = {**street.headers("hostile-gzip-bomb", body), "accept-encoding": "identity"}
    size = packed = 0
    with httpx.stream(
        "POST", street.url("hostile-gzip-bomb"), content=body, headers=headers, trust_env=False
    ) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        data = b"".join(answer.iter_raw())
        packed = len(data)
    while data:
        decoder = zlib.decompressobj(31)
        size += len(decoder.decompress(data))
        data = decoder.unused_data
    assert packed < 1024 * 1024
    assert size > 250 * 1024 * 1024


def test_the_huge_body_does_not_end(street: Neighbours) -> None:
    with street.raw("hostile-huge-body") as connection:
        received = 0
        while received < 5_000_000:
            part = connection.recv(1 << 20)
            assert part
            received += len(part)


def test_the_deep_answer_breaks_a_recursive_parser(street: Neighbours) -> None:
    answer = street.ask("hostile-deep-json", ASKED)
    assert answer.status_code == 200
    with pytest.raises(RecursionError):
        json.loads(answer.content)


def test_the_completion_that_is_no_text(street: Neighbours) -> None:
    seen = {street.ask("hostile-nan", ASKED).text for _ in range(60)}
    assert seen == {
        f'{{"completion": {one}}}'
        for one in ("NaN", "-Infinity", "1e999", "null", "42", '{"text": "yes"}', '"\\ud800\\udfff"')
    }


def test_the_special_tokens_look_long_and_are_ten_characters_when_cleaned(street: Neighbours) -> None:
    seen: set[str] = set()
    for _ in range(40):
        completion = street.ask("hostile-special-tokens", ASKED).json()["completion"]
        assert len(completion) > 100
        visible = "".join(c for c in completion if unicodedata.category(c) not in ("Cc", "Cf"))
        assert 9 <= len(visible) <= 10
        seen.add(visible)
    assert {"[SEP][CLS]", "<|im_end|>"} <= seen


def test_the_hostile_ask_for_no_signature(street: Neighbours) -> None:
    body = {"roles": ["user"], "messages": [ASKED]}
    answer = httpx.post(street.url("hostile-deep-json"), json=body, trust_env=False)
    assert answer.status_code == 200


def test_the_dead_one_refuses_connections(street: Neighbours) -> None:
    dead = street.residents["dead"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((dead.host, dead.port), timeout=2)


def test_all_others_go_on_answering_while_the_hostile_have_callers(street: Neighbours) -> None:
    names = ["hostile-drip", "hostile-huge-body", "hostile-drip", "hostile-huge-body"]
    connections = [street.raw(name) for name in names]
    try:
        for one in RESIDENTS:
            if one.character in ("specialist", "generalist", "vague"):
                assert street.ask(one.name, ASKED).status_code == 200
    finally:
        for connection in connections:
            connection.close()


async def test_what_is_left_behind_by_callers_that_go_is_given_up(street: Neighbours) -> None:
    tasks = street.server.server_state.tasks
    connections = [
        street.raw(name) for name in ("hostile-huge-body", "hostile-drip", "slow") for _ in range(10)
    ]
    await wait_until(lambda: len(tasks) >= 25)
    for connection in connections:
        connection.close()
    await wait_until(lambda: not tasks, timeout=4)
