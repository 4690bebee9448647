"""The OpenAI-compatible endpoints, asked with the real openai client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse

from coremesh.service.app import MAX_REQUEST_BYTES
from coremesh.wire.status import Status
from tests.integration.querier.conftest import World
from tests.integration.querier.network import Behaviour, answers, says
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
BETTER = "Because air molecules scatter short wavelengths far more strongly: Rayleigh scattering."
ASK: Any = {"model": "coremesh", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}


def speaks(*parts: str | asyncio.Event | None) -> Behaviour:
    """A miner that streams: texts as they are, events awaited, None for a connection that breaks."""

    async def behave(body: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[str]:
            for part in parts:
                if isinstance(part, asyncio.Event):
                    await part.wait()
                elif part is None:
                    return
                else:
                    yield f"data: {json.dumps({'delta': part})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return behave


async def _client(
    world: World, key: str = "none", **settings: Any
) -> tuple[httpx.AsyncClient, openai.AsyncOpenAI]:
    http = await world.querier(wait=not settings, **settings)
    return http, openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key=key, max_retries=0)


async def test_a_completion_with_its_headers_and_usage(world: World) -> None:
    miners = await world.miners(says(GOOD), says(BETTER))
    _, client = await _client(world)
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    answer = raw.parse()
    assert answer.object == "chat.completion"
    assert answer.model == "coremesh"
    assert [(c.index, c.finish_reason, c.message.role, c.message.content) for c in answer.choices] == [
        (0, "stop", "assistant", BETTER)
    ]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 6
    assert answer.usage.total_tokens == 6 + answer.usage.completion_tokens
    event_id = raw.headers["x-coremesh-event"]
    assert answer.id == f"chatcmpl-{event_id}"
    assert raw.headers["x-coremesh-uid"] == "2"
    assert raw.headers["x-coremesh-hotkey"] == miners[1].hotkey
    assert (await world.event(event_id)).kind == "inference"


async def test_the_sync_client_too(world: World) -> None:
    await world.miners(says(GOOD))
    http, _ = await _client(world)

    def ask() -> str | None:
        with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
            return client.chat.completions.create(**ASK).choices[0].message.content

    assert await asyncio.to_thread(ask) == GOOD


async def test_n_best_completions_of_different_miners(world: World) -> None:
    await world.miners(says(GOOD), answers(500), says(BETTER))
    _, client = await _client(world)
    answer = await client.chat.completions.create(**ASK, n=3)
    assert [(c.index, c.message.content) for c in answer.choices] == [(0, BETTER), (1, GOOD)]


async def test_stop_and_max_tokens(world: World) -> None:
    await world.miners(says("One two three. Four five six."))
    _, client = await _client(world)
    stopped = await client.chat.completions.create(**ASK, stop=["Five", " Four"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == (
        "One two three.",
        "stop",
    )
    cut = await client.chat.completions.create(**ASK, max_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("One two", "length")
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 2
    whole = await client.chat.completions.create(**ASK, max_completion_tokens=8)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (
        "One two three. Four five six.",
        "stop",
    )


async def test_extra_fields_parts_and_developer_messages_are_tolerated(world: World) -> None:
    miners = await world.miners(says(GOOD))
    _, client = await _client(world)
    messages: Any = [
        {"role": "developer", "content": "Be brief.", "name": "x"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Why is"}, {"type": "text", "text": "it blue?"}],
        },
    ]
    answer = await client.chat.completions.create(
        model="coremesh",
        messages=messages,
        temperature=0.3,
        seed=1,
        user="me",
        top_p=0.5,
        extra_body={"min_p": 0.1, "coremesh": {"top_k": 1, "private": True, "timeout": 1.5}},
    )
    assert answer.choices[0].message.content == GOOD
    assert miners[0].asked == [
        {"roles": ["system", "user"], "messages": ["Be brief.", "Why is\nit blue?"], "timeout": 1.5}
    ]


async def test_streaming(world: World) -> None:
    await world.miners(says(GOOD), says(BETTER))
    http, client = await _client(world)
    pieces: list[str] = []
    finishes: list[str] = []
    usage = None
    stream = await client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    assert stream.response.headers["x-coremesh-event"]
    async for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            if choice.finish_reason:
                finishes.append(choice.finish_reason)
    assert "".join(pieces) == BETTER
    assert len([piece for piece in pieces if piece]) > 3
    assert finishes == ["stop"]
    assert usage is not None
    assert usage.completion_tokens > 5
    raw = await http.post("/v1/chat/completions", json={**ASK, "stream": True})
    assert raw.text.endswith("data: [DONE]\n\n")


async def test_a_stream_tells_what_the_first_miner_says_while_it_says_it(world: World) -> None:
    world.services.filtering = False
    gate = asyncio.Event()
    await world.miners(speaks("Because air ", "scatters ", gate, "blue light."), says(BETTER))
    _, client = await _client(world)
    stream = await client.chat.completions.create(**ASK, stream=True)
    assert stream.response.headers["x-coremesh-uid"] == "1"
    pieces: list[str] = []
    async for chunk in stream:
        piece = chunk.choices[0].delta.content
        if piece:
            pieces.append(piece)
        if piece and not gate.is_set():
            # The miner has not finished: what came is told already.
            gate.set()
    assert "".join(pieces) == "Because air scatters blue light."
    assert len(pieces) == 3
    event = await world.event(stream.response.headers["x-coremesh-event"])
    assert list(event.status) == [Status.OK, Status.OK]
    assert event.scored
    assert event.rewards[1] == pytest.approx(len(BETTER) / 100)


async def test_another_takes_over_before_the_first_has_said_enough(world: World) -> None:
    world.services.filtering = False
    await world.miners(speaks("Hm."), answers(500), says(GOOD))
    _, client = await _client(world)
    stream = await client.chat.completions.create(**ASK, stream=True)
    assert stream.response.headers["x-coremesh-uid"] == "3"
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == GOOD


async def test_a_miner_that_fails_halfway_is_an_error_at_the_end(world: World) -> None:
    world.services.filtering = False
    await world.miners(speaks("Because air scatters ", None))
    _, client = await _client(world)
    stream = await client.chat.completions.create(**ASK, stream=True)
    with pytest.raises(openai.APIError, match="failed in the middle"):
        _ = [chunk async for chunk in stream]
    event = await world.event(stream.response.headers["x-coremesh-event"])
    assert not event.scored


async def test_stop_and_max_tokens_hold_in_a_live_stream(world: World) -> None:
    world.services.filtering = False
    await world.miners(speaks("One two thr", "ee. Fo", "ur five six."))
    _, client = await _client(world)
    for change, text, finish in [
        ({"stop": "Four"}, "One two three. ", "stop"),
        ({"max_tokens": 3}, "One two three", "length"),
        ({}, "One two three. Four five six.", "stop"),
    ]:
        stream = await client.chat.completions.create(**{**ASK, **change}, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == text
        assert chunks[-1].finish_reason == finish


async def test_with_a_safety_filter_nothing_is_told_before_it_is_judged(world: World) -> None:
    world.services.bad_texts = ("poison",)
    await world.miners(speaks("Take some poison ", "with your tea."), says(GOOD))
    _, client = await _client(world)
    stream = await client.chat.completions.create(**ASK, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == GOOD


async def test_models(world: World) -> None:
    await world.miners()
    _, client = await _client(world)
    listed = await client.models.list()
    assert [(model.id, model.owned_by) for model in listed.data] == [("coremesh", "coremesh")]
    assert (await client.models.retrieve("coremesh")).id == "coremesh"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-4")


async def test_errors_are_openais(world: World) -> None:
    await world.miners(answers(500))
    http, client = await _client(world)
    bad: list[tuple[dict[str, Any], type[openai.APIStatusError], str, str]] = [
        ({"messages": []}, openai.BadRequestError, "invalid_request", "messages"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            openai.BadRequestError,
            "bad_messages",
            "messages[0].role",
        ),
        (
            {"messages": [{"role": "user", "content": " "}]},
            openai.BadRequestError,
            "bad_messages",
            "is empty",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            openai.BadRequestError,
            "bad_messages",
            "not text",
        ),
        ({"model": "gpt-4"}, openai.NotFoundError, "model_not_found", "gpt-4"),
        ({"n": 0}, openai.BadRequestError, "invalid_request", "n"),
        ({"max_tokens": 0}, openai.BadRequestError, "invalid_request", "max_tokens"),
        ({"extra_body": {"coremesh": {"top_k": 0}}}, openai.BadRequestError, "bad_request", "top_k"),
        ({"extra_body": {"coremesh": {"topk": 1}}}, openai.BadRequestError, "invalid_request", "topk"),
        ({}, openai.InternalServerError, "no_completion", "none of 1 miners"),
        ({"stream": True}, openai.InternalServerError, "no_completion", "none of 1 miners"),
    ]
    for change, kind, code, part in bad:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(**{**ASK, **change})
        assert caught.value.code == code
        assert part in caught.value.message
    response = await http.post(
        "/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert set(json.loads(response.text)["error"]) == {"message", "type", "param", "code"}
    typed = {"content-type": "text/plain"}
    response = await http.post("/v1/chat/completions", content=b"{}", headers=typed)
    assert (response.status_code, response.json()["error"]["type"]) == (415, "invalid_request_error")
    huge = b"x" * (MAX_REQUEST_BYTES + 1)
    response = await http.post(
        "/v1/chat/completions", content=huge, headers={"content-type": "application/json"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_long")
    assert (await http.get("/v1")).json()["error"]["code"] == "not_found"
    assert (await http.get("/nothing")).json()["code"] == "not_found"


async def test_keys_in_openais_way(world: World) -> None:
    await world.miners(says(GOOD))
    querier = {"api_keys": ["sk-1"]}
    _, stranger = await _client(world, "sk-2", querier=querier)
    with pytest.raises(openai.AuthenticationError):
        await stranger.models.list()
    _, friend = await _client(world, "sk-1", querier=querier)
    assert [model.id for model in (await friend.models.list()).data] == ["coremesh"]


async def test_busy_in_openais_way(world: World) -> None:
    gate = asyncio.Event()

    async def slow(body: dict[str, Any]) -> str:
        await gate.wait()
        return GOOD

    miners = await world.miners(slow)
    http, client = await _client(world)
    _ = http
    await world.stop_querier()
    http = await world.querier(querier={"max_concurrent": 1, "queue_length": 0})
    client = openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)
    first = asyncio.create_task(client.chat.completions.create(**ASK))
    await wait_until(lambda: miners[0].asked)

    async def refused() -> openai.RateLimitError:
        while True:
            try:
                await client.chat.completions.create(**ASK, timeout=0.5)
            except openai.RateLimitError as error:
                return error
            except openai.APITimeoutError:
                continue

    error = await asyncio.wait_for(refused(), 10)
    assert error.code == "busy"
    assert int(error.response.headers["retry-after"]) >= 1
    gate.set()
    assert (await first).choices[0].message.content == GOOD


TOOL: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize(
    "more",
    [
        {"tools": []},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tool_choice": "auto", "parallel_tool_calls": True},
        {"functions": [], "function_call": "none"},
        {"response_format": {"type": "text"}},
        {"logprobs": False, "top_logprobs": 0, "logit_bias": {}},
        {"modalities": ["text"]},
        {"temperature": 0, "top_p": 1, "presence_penalty": 1, "frequency_penalty": -1, "seed": 7},
        {"reasoning_effort": "low", "verbosity": "low", "user": "me", "metadata": {"a": "b"}, "store": True},
        {
            "service_tier": "auto",
            "prediction": {"type": "content", "content": "Because"},
            "safety_identifier": "x",
        },
        {"extra_body": {"tools": None, "response_format": None, "audio": None, "never_heard_of": None}},
        {"extra_body": {"top_k": -1, "max_token": 4, "never_heard_of": {"at": "all"}}},
    ],
)
async def test_what_asks_for_nothing_of_miners_is_taken(world: World, more: dict[str, Any]) -> None:
    await world.miners(says(GOOD))
    _, client = await _client(world)
    answer = await client.chat.completions.create(**ASK, **more)
    assert answer.choices[0].message.content == GOOD


async def test_what_miners_cannot_do_is_refused_by_name(world: World) -> None:
    miners = await world.miners(says(GOOD))
    _, client = await _client(world)
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    voice = {"voice": "alloy", "format": "wav"}
    bad: list[tuple[str, dict[str, Any], str]] = [
        ("tools", {"tools": [TOOL]}, "unsupported_parameter"),
        ("tools", {"tools": [TOOL], "tool_choice": "auto"}, "unsupported_parameter"),
        ("tool_choice", {"tool_choice": "required"}, "unsupported_parameter"),
        ("functions", {"functions": [TOOL["function"]]}, "unsupported_parameter"),
        ("response_format", {"response_format": {"type": "json_object"}}, "unsupported_parameter"),
        ("response_format", {"response_format": schema}, "unsupported_parameter"),
        ("logprobs", {"logprobs": True}, "unsupported_parameter"),
        ("top_logprobs", {"top_logprobs": 3}, "unsupported_parameter"),
        ("logit_bias", {"logit_bias": {"50256": -100}}, "unsupported_parameter"),
        ("modalities", {"modalities": ["text", "audio"]}, "unsupported_parameter"),
        ("audio", {"audio": voice}, "unsupported_parameter"),
        ("web_search_options", {"web_search_options": {}}, "unsupported_parameter"),
        ("private", {"extra_body": {"private": True}}, "unknown_parameter"),
        ("n", {"n": 100}, "invalid_request"),
        ("n", {"n": 2, "extra_body": {"coremesh": {"top_k": 1}}}, "invalid_request"),
        ("max_tokens", {"max_tokens": -1}, "invalid_request"),
        ("model", {"model": "gpt-4"}, "model_not_found"),
    ]
    for param, change, code in bad:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**{**ASK, **change, "stream": param != "n"})
        assert (caught.value.code, caught.value.param) == (code, param)
        assert caught.value.type == "invalid_request_error"
        assert param in caught.value.message
        assert caught.value.status_code == (404 if param == "model" else 400)
    assert miners[0].asked == []


async def test_as_many_miners_are_asked_as_completions_are_wanted(world: World) -> None:
    await world.miners(*[says(f"{GOOD} {i}") for i in range(4)])
    http = await world.querier(wait=True, querier={"inference_topk": 1})
    client = openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)
    answer = await client.chat.completions.create(**ASK, n=3)
    assert len({choice.message.content for choice in answer.choices}) == 3
    answer = await client.chat.completions.create(**ASK, n=2, extra_body={"coremesh": {"top_k": "auto"}})
    assert len(answer.choices) == 2


async def test_other_paths_and_methods(world: World) -> None:
    await world.miners()
    http, _ = await _client(world)
    wrong = await http.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json() == {
        "error": {
            "message": "GET /v1/chat/completions is not allowed. /v1/chat/completions takes POST, /v1/models GET.",
            "type": "invalid_request_error",
            "param": None,
            "code": "method_not_allowed",
        }
    }
    assert (await http.delete("/v1/models")).status_code == 405
    for path in ("/v1/responses", "/v1/embeddings", "/v1/completions", "/v1/chat", "/v1/nothing/at/all"):
        answer = await http.post(path, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert answer.json()["error"]["message"].startswith(
            f"there is no POST {path}. POST /v1/chat/completions, "
        )
