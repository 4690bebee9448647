from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from coremesh.errors import BadSetting
from miner.backends.openai import OpenAIBackend
from tests.unit.miner.servers import ASKED, AskedMiner, FakeOpenAI, running, running_miner
from tests.wait import wait_until

Start = Callable[[FakeOpenAI], AskedMiner]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a miner over a fake model server."""
    with ExitStack() as stack:

        def start(fake: FakeOpenAI) -> AskedMiner:
            base = stack.enter_context(running(fake.app()))

            def make() -> OpenAIBackend:
                return OpenAIBackend(
                    f"{base}/v1/", "tiny", api_key="s3cret", max_tokens=99, temperature=0.1, concurrency=2
                )

            return stack.enter_context(running_miner(make, max_timeout_s=3.0))

        yield start


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"code", "message", "remedy"}, answer.text
    return answer.status_code, answer.json()["code"]


def test_a_completion_of_the_model_server(start: Start) -> None:
    fake = FakeOpenAI()
    answer = start(fake).post()
    assert (answer.status_code, answer.json()) == (200, {"completion": "Ice is frozen water."})
    ((headers, request),) = fake.seen
    assert headers["authorization"] == "Bearer s3cret"
    assert headers["accept-encoding"] == "identity"
    assert request == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is ice?"},
        ],
        "max_tokens": 99,
        "temperature": 0.1,
        "stream": True,
    }


def test_a_stream_for_callers_that_take_one(start: Start) -> None:
    answer = start(FakeOpenAI()).post(accept="text/event-stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == (
        'data: {"delta": "Ice is "}\n\ndata: {"delta": "frozen "}\n\ndata: {"delta": "water."}\n\ndata: [DONE]\n\n'
    )


def test_the_stream_comes_while_the_model_speaks(start: Start) -> None:
    miner = start(FakeOpenAI(pieces=["first ", 1.0, "second", None]))
    body = json.dumps(ASKED).encode()
    headers = {**miner.headers(body), "accept": "text/event-stream"}
    with httpx.stream(
        "POST", f"{miner.url}/forward", content=body, headers=headers, trust_env=False
    ) as answer:
        parts = answer.iter_text()
        assert next(parts) == 'data: {"delta": "first "}\n\n'
        assert "[DONE]" in "".join(parts)


@pytest.mark.parametrize(
    ("fake", "expected"),
    [
        (FakeOpenAI(status=500), (502, "backend_failed")),
        (FakeOpenAI(status=429), (429, "busy")),
        (FakeOpenAI(pieces=[None]), (502, "backend_failed")),
        (FakeOpenAI(pieces=["cut "]), (502, "backend_failed")),
        (FakeOpenAI(pieces=[b"data: {nonsense\n\n"]), (502, "backend_failed")),
        (FakeOpenAI(pieces=[b"data: " + b"[" * 50_000 + b"\n\n"]), (502, "backend_failed")),
        (FakeOpenAI(pieces=[b": no news\n\n" * 10_000] * 60), (502, "backend_failed")),
        (FakeOpenAI(pieces=["x" * 100_000, None]), (502, "backend_failed")),
        (FakeOpenAI(headers={"content-encoding": "gzip"}), (502, "backend_failed")),
    ],
    ids=["500", "429", "silent", "cut", "no-json", "deep", "endless", "giant", "encoded"],
)
def test_trouble_of_the_model_server_is_a_clear_error(
    start: Start, fake: FakeOpenAI, expected: tuple[int, str]
) -> None:
    miner = start(fake)
    assert refusal(miner.post()) == expected
    if fake.pieces != ["cut "]:
        assert refusal(miner.post(accept="text/event-stream")) == expected


def test_a_stream_that_breaks_off_has_no_end(start: Start) -> None:
    for pieces in (["first ", b"data: {nonsense\n\n"], ["first "]):
        answer = start(FakeOpenAI(pieces=pieces)).post(accept="text/event-stream")
        assert answer.text == 'data: {"delta": "first "}\n\n'


async def test_the_deadline_is_the_callers_and_at_most_ours_and_the_work_is_dropped(start: Start) -> None:
    fake = FakeOpenAI(pieces=["never ", 60.0, "done", None])
    miner = start(fake)
    for timeout in (0.3, 1000.0):
        started = time.monotonic()
        assert refusal(miner.post({**ASKED, "timeout": timeout})) == (504, "deadline_exceeded")
        assert time.monotonic() - started < 8
        await wait_until(lambda: fake.open == 0)


async def test_a_caller_beyond_the_places_is_told_to_wait(start: Start) -> None:
    fake = FakeOpenAI(pieces=["slow ", 30.0, None])
    miner = start(fake)
    body = json.dumps({**ASKED, "timeout": 3.0}).encode()
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        held = [
            asyncio.create_task(
                client.post(f"{miner.url}/forward", content=body, headers=miner.headers(body))
            )
            for _ in range(2)
        ]
        await wait_until(lambda: fake.open == 2)
        busy = await client.post(f"{miner.url}/forward", content=body, headers=miner.headers(body))
        assert refusal(busy) == (429, "busy")
        assert busy.headers["retry-after"] == "1"
        assert [refusal(answer) for answer in await asyncio.gather(*held)] == [(504, "deadline_exceeded")] * 2
        # The places are free again.
        fake.pieces = ["quick", None]
        again = await client.post(f"{miner.url}/forward", content=body, headers=miner.headers(body))
        assert again.json() == {"completion": "quick"}


def test_readiness_tells_of_a_model_server_that_is_down_or_refuses(start: Start) -> None:
    def ready(miner: AskedMiner) -> tuple[int, str]:
        answer = httpx.get(f"{miner.url}/readyz", trust_env=False)
        return answer.status_code, answer.json()["checks"]["backend"]

    assert ready(start(FakeOpenAI())) == (200, "ok")
    status, problem = ready(start(FakeOpenAI(status=401)))
    assert status == 503
    assert "refuses our API key (status 401)" in problem
    with running_miner(lambda: OpenAIBackend("http://127.0.0.1:9", "tiny")) as miner:
        assert ready(miner) == (503, "the model server at http://127.0.0.1:9 does not answer")
        assert refusal(miner.post()) == (503, "unavailable")
        assert httpx.get(f"{miner.url}/healthz", trust_env=False).json()["status"] == "alive"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://", "http://[::1"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(BadSetting, match="no http:// or https:// address"):
        OpenAIBackend(url, "tiny")
