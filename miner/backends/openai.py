"""Any server that speaks the OpenAI chat completions API: vLLM, llama.cpp, Ollama, SGLang, a hosted one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx
import msgspec

from coremesh.errors import BadSetting, Busy, Unavailable
from coremesh.wire.sse import SseOverflow, SseParser
from miner.backends.deadline import within
from miner.backends.protocol import BackendFailed, Turns

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Of one streamed answer; each event has its own overhead."""
CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 5.0


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_CHUNK = msgspec.json.Decoder(_Chunk)


class OpenAIBackend:
    """Streams from ``POST {base_url}/chat/completions``; at most ``concurrency`` at once, others are told Busy."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = "",
        max_tokens: int = 256,
        temperature: float = 0.7,
        concurrency: int = 16,
    ) -> None:
        """Raises BadSetting when ``base_url`` is no http address."""
        self._url = _http_address(base_url)
        self._model = model
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._free = concurrency
        headers = {"accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    async def start(self) -> None:
        """Nothing: the server may come up later, and ``problem`` says whether it has."""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def problem(self) -> str | None:
        """Whether the server answers at all; what it says to ``/models`` does not matter."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                async with self._client.stream("GET", f"{self._url}/models") as answer:
                    status = answer.status_code
        except (httpx.HTTPError, TimeoutError):
            return f"the model server at {self._url} does not answer"
        if status in (401, 403):
            return f"the model server at {self._url} refuses our API key (status {status})"
        return None

    async def stream(self, turns: Turns, *, timeout_s: float) -> AsyncGenerator[str, None]:
        """See Backend."""
        if self._free <= 0:
            raise Busy("all places at the model server are taken")
        self._free -= 1
        try:
            async with aclosing(within(self._pieces(turns), timeout_s)) as pieces:
                async for piece in pieces:
                    yield piece
        except httpx.ConnectError:
            raise Unavailable(f"the model server at {self._url} does not answer") from None
        except httpx.HTTPError as error:
            raise BackendFailed(f"the model server broke off: {type(error).__name__}") from None
        finally:
            self._free += 1

    async def _pieces(self, turns: Turns) -> AsyncGenerator[str, None]:
        request = {
            "model": self._model,
            "messages": turns,
            "max_tokens": self._max_tokens,
            "temperature": self._temperature,
            "stream": True,
        }
        async with self._client.stream("POST", f"{self._url}/chat/completions", json=request) as answer:
            if answer.status_code == 429:
                raise Busy("the model server has too much to do")
            if answer.status_code != 200:
                raise BackendFailed(f"the model server answers with status {answer.status_code}")
            if "content-encoding" in answer.headers:
                raise BackendFailed(
                    "the model server encodes its answer, although only identity was accepted"
                )
            parser, size = SseParser(), 0
            async for part in answer.aiter_raw():
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    raise BackendFailed("the model server's answer does not end")
                for piece in _texts(parser, part):
                    if piece is None:
                        return
                    yield piece
            raise BackendFailed("the model server's answer was cut off")


def _http_address(base_url: str) -> str:
    try:
        url = httpx.URL(base_url.rstrip("/"))
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise BadSetting(
            f"--base-url: got {base_url!r}, which is no http:// or https:// address",
            remedy="Name the server's API root, for example http://127.0.0.1:8000/v1.",
        )
    return str(url)


def _texts(parser: SseParser, part: bytes) -> list[str | None]:
    """The texts that ``part`` completes; None for the end of the stream."""
    texts: list[str | None] = []
    try:
        for data in parser.feed(part):
            if data.strip() == b"[DONE]":
                texts.append(None)
                break
            texts += [choice.delta.content for choice in _CHUNK.decode(data).choices if choice.delta.content]
    except (msgspec.DecodeError, RecursionError, SseOverflow):
        raise BackendFailed("the model server's answer is no stream of chat completion chunks") from None
    return texts
