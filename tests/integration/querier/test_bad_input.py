"""Every way to ask wrongly: a 4xx that says what, and what to do."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.querier.conftest import World, ask
from tests.integration.querier.network import Miner, says

GOOD = "Because air scatters blue light more than red light."
USER = {"role": "user", "content": "Why is the sky blue?"}

BAD_BODIES: list[tuple[dict[str, Any], int, str, str]] = [
    ({}, 400, "bad_request", "messages: field required"),
    ({"messages": []}, 400, "bad_request", "messages: the list should have at least 1 item"),
    ({"messages": None}, 400, "bad_request", "messages: input should be a valid tuple"),
    ({"messages": "hello"}, 400, "bad_request", "messages: input should be a valid tuple"),
    (
        {"messages": [{"role": "wizard", "content": "hi"}]},
        400,
        "bad_request",
        "'system', 'user' or 'assistant'",
    ),
    ({"messages": [{"role": "user"}]}, 400, "bad_request", "messages.0.content: field required"),
    ({"messages": [{"role": "user", "content": ""}]}, 400, "bad_request", "at least 1 character"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "bad_request", "valid string"),
    ({"messages": [{"role": "user", "content": ["hi"]}]}, 400, "bad_request", "valid string"),
    ({"messages": [{"role": "user", "content": None}]}, 400, "bad_request", "valid string"),
    ({"messages": [{"role": "user", "content": " \n\t "}]}, 400, "bad_messages", "only white space"),
    ({"messages": [{"role": "system", "content": "Be kind."}]}, 400, "bad_messages", "no message of a user"),
    ({"messages": [{"role": "user", "content": "x" * 32_001}]}, 413, "too_long", "at most 32000"),
    ({"messages": [USER] * 65}, 413, "too_long", "65 messages; at most 64"),
    ({"messages": [USER], "top_k": 0}, 400, "bad_request", "top_k is 0; it takes 1 or more"),
    ({"messages": [USER], "top_k": -1}, 400, "bad_request", "top_k is -1; it takes 1 or more"),
    ({"messages": [USER], "top_k": 4}, 400, "bad_request", "top_k is 4 and the network has 3 uids"),
    ({"messages": [USER], "top_k": "many"}, 400, "bad_request", "top_k"),
    ({"messages": [USER], "top_k": 1.5}, 400, "bad_request", "top_k"),
    ({"messages": [USER], "timeout": -1}, 400, "bad_request", "timeout is -1.0; it takes seconds"),
    ({"messages": [USER], "timeout": 0}, 400, "bad_request", "timeout is 0.0; it takes seconds"),
    ({"messages": [USER], "timeout": 1e9}, 400, "bad_request", "at most 60"),
    ({"messages": [USER], "timeout": "soon"}, 400, "bad_request", "timeout"),
    ({"messages": [USER], "wait_for": 0}, 400, "bad_request", "wait_for"),
    ({"messages": [USER], "wait_for": 3, "top_k": 2}, 400, "bad_request", "only 2 miners are asked"),
    ({"messages": [USER], "temperature": 1}, 400, "bad_request", "temperature: extra inputs"),
]

RAW: list[tuple[bytes, str, int, str, str]] = [
    (b"{", "application/json", 400, "bad_request", "not valid JSON"),
    (b"", "application/json", 400, "bad_request", "field required"),
    (b"null", "application/json", 400, "bad_request", "valid dictionary"),
    (b"[1]", "application/json", 400, "bad_request", "valid dictionary"),
    (b"\xff\xfe", "application/json", 400, "bad_request", "not valid JSON"),
    (b"[" * 100_000, "application/json", 400, "http_error", "error parsing the body"),
    (
        b'{"messages":[{"role":"user","content":"hi"}],"timeout":NaN}',
        "application/json",
        400,
        "bad_request",
        "",
    ),
    (
        b'{"messages":[{"role":"user","content":"hi"}],"timeout":1e999}',
        "application/json",
        400,
        "bad_request",
        "",
    ),
    (
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        "application/json",
        400,
        "bad_request",
        "content",
    ),
    (b'{"messages":[]}', "text/plain", 415, "bad_request", "not application/json"),
    (b"messages=hi", "application/x-www-form-urlencoded", 415, "bad_request", "not application/json"),
    (b" " * (4 * 1024 * 1024 + 1), "application/json", 413, "too_long", "over 4194304 bytes"),
]


async def _world(world: World) -> tuple[list[Miner], httpx.AsyncClient]:
    return await world.miners(says(GOOD)), await world.querier()


def _refused(response: httpx.Response, status: int, code: str, part: str) -> None:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert set(body) == {"code", "message", "remedy"}
    assert part in body["message"]
    assert body["remedy"]


async def test_bad_bodies_are_refused_and_good_ones_still_answered(world: World) -> None:
    miners, client = await _world(world)
    for body, status, code, part in BAD_BODIES:
        _refused(await client.post("/inference", json=body), status, code, part)
    for content, kind, status, code, part in RAW:
        response = await client.post("/inference", content=content, headers={"content-type": kind})
        _refused(response, status, code, part)
    assert miners[0].asked == []
    assert await world.forwards() == []
    assert (await ask(client, top_k=3)).json()["completion"] == GOOD


async def test_bad_forwards_are_refused(world: World) -> None:
    _, client = await _world(world)
    good = {"roles": ["user"], "messages": ["Why is the sky blue?"]}
    for change, part in [
        ({"topk": 0}, "topk is 0; it takes a number of miners, or -1 for all"),
        ({"topk": -2}, "topk is -2"),
        ({"roles": []}, "roles: the list should have at least 1 item"),
        ({"roles": ["user", "user"]}, "2 roles for 1 messages"),
        ({"roles": ["king"]}, "'system', 'user' or 'assistant'"),
        ({"messages": [""]}, "at least 1 character"),
        ({"timeout": -3}, "timeout is -3.0"),
        ({"kind": "gossip"}, "kind"),
    ]:
        response = await client.post("/forward", json={**good, **change})
        assert response.status_code == 400, change
        assert part in response.json()["message"]
    for topk in (-1, None, 500):
        body = (await client.post("/forward", json={**good, "topk": topk})).json()
        assert body["uids"] == [1]


async def test_other_bad_requests(world: World) -> None:
    _, client = await _world(world)
    for path, status, code in [
        ("/history?count=0", 400, "bad_request"),
        ("/history?count=9999", 400, "bad_request"),
        ("/history?count=x", 400, "bad_request"),
        ("/nowhere", 404, "not_found"),
    ]:
        response = await client.get(path)
        assert (response.status_code, response.json()["code"]) == (status, code)
    assert (await client.get("/inference")).status_code == 405


@pytest.mark.parametrize("key", ["", "wrong", "Key-1", "key-1"])
async def test_keys_are_needed_where_there_are_any(world: World, key: str) -> None:
    await world.miners(says(GOOD))
    client = await world.querier(querier={"api_keys": ["key-1", "key-2"]}, wait=False)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    ok = key == "key-1"
    for method, path in [
        ("GET", "/metagraph"),
        ("GET", "/v1/models"),
        ("GET", "/miners"),
        ("GET", "/history"),
    ]:
        response = await client.request(method, path, headers=headers)
        assert (response.status_code == 401) is not ok
    assert (await client.get("/healthz")).status_code == 200


async def test_operators_only(world: World) -> None:
    await world.miners(says(GOOD))
    querier = {"api_keys": ["key-1"], "operator_token": "op"}
    client = await world.querier(querier=querier, wait=False)
    body = {"roles": ["user"], "messages": ["Why is the sky blue?"]}
    caller = {"authorization": "Bearer key-1"}
    operator = {"authorization": "Bearer op"}
    assert (await client.post("/forward", json=body, headers=caller)).status_code == 401
    assert (await client.post("/forward", json=body)).status_code == 401
    assert (await client.post("/forward", json=body, headers=operator)).status_code in (200, 503)


async def test_history_shows_texts_to_operators_only(world: World) -> None:
    miners = await world.miners(says(GOOD))
    client = await world.querier(querier={"operator_token": "op"})
    event_id = (await ask(client)).json()["event_id"]
    await world.event(event_id)
    plain = (await client.get("/history?count=5")).json()["events"]
    assert [(e["event_id"], e["messages"], e["completions"]) for e in plain] == [(event_id, None, None)]
    full = (await client.get("/history?count=5", headers={"authorization": "Bearer op"})).json()
    row = full["events"][0]
    assert row["messages"] == [USER]
    assert row["completions"] == [GOOD]
    assert row["hotkeys"] == [miners[0].hotkey]
    assert (row["statuses"], row["flags"], row["best"]) == (["ok"], ["scored"], 0)
    assert full["waiting"] == 0


async def test_a_proxied_stranger_is_no_operator(world: World) -> None:
    await world.miners(says(GOOD))
    client = await world.querier()
    body = {"roles": ["user"], "messages": ["Why is the sky blue?"]}
    assert (await client.post("/forward", json=body)).status_code == 200
    response = await client.post("/forward", json=body, headers={"x-forwarded-for": "8.8.8.8"})
    assert response.status_code == 403
    assert "COREMESH_QUERIER_OPERATOR_TOKEN" in response.json()["remedy"]


async def test_a_page_whose_name_leads_here_is_no_operator(world: World) -> None:
    await world.miners(says(GOOD))
    client = await world.querier()
    body = {"roles": ["user"], "messages": ["Why is the sky blue?"]}
    for host, status in (("localhost:1", 200), ("[::1]:1", 200), ("rebound.example:8080", 403), ("[", 403)):
        response = await client.post("/forward", json=body, headers={"host": host})
        assert response.status_code == status, host
