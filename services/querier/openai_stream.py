"""Completions as OpenAI's server-sent events: as a miner speaks, or from the whole."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.responses import StreamingResponse

from coremesh.errors import NoCompletion
from services.querier import tokens
from services.querier.live import LiveText
from services.querier.openai_errors import openai_body
from services.querier.openai_models import MODEL, ChatRequest

Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion as the caller wants it: cut at stop sequences and at the token bound."""

    text: str
    finish: str


def cut(text: str, chat: ChatRequest) -> Choice:
    """A whole completion as the caller wants it."""
    cutter = tokens.Cutter(chat.stops, chat.most_tokens)
    given = cutter.feed(text) + cutter.end()
    return Choice(given, cutter.finish or "stop")


def usage(prompt: Sequence[str], answers: Sequence[str]) -> dict[str, int]:
    """About how many tokens were asked and answered; see tokens.py."""
    asked = sum(map(tokens.count, prompt))
    answered = sum(map(tokens.count, answers))
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def response(chunks: AsyncIterator[Chunk], headers: dict[str, str]) -> StreamingResponse:
    """``chunks`` as server-sent events, ended by ``[DONE]``."""
    return StreamingResponse(
        _events(chunks), media_type="text/event-stream", headers={**headers, "cache-control": "no-cache"}
    )


async def whole(
    choices: Sequence[Choice], chat: ChatRequest, *, event_id: str, prompt: Sequence[str]
) -> AsyncIterator[Chunk]:
    """Finished completions, told word by word."""
    chunks = _Chunks(chat, event_id)
    for index, choice in enumerate(choices):
        yield chunks.opening(index)
        for piece in tokens.pieces(choice.text):
            yield chunks.text(index, piece)
        yield chunks.closing(index, choice.finish)
    for chunk in chunks.accounts(prompt, [choice.text for choice in choices]):
        yield chunk


async def live(
    text: LiveText, chat: ChatRequest, *, event_id: str, prompt: Sequence[str]
) -> AsyncIterator[Chunk]:
    """What a miner says while it says it. Ends with an error when the miner fails halfway."""
    chunks = _Chunks(chat, event_id)
    cutter = tokens.Cutter(chat.stops, chat.most_tokens)
    given: list[str] = []
    yield chunks.opening(0)
    async for piece in text:
        if said := cutter.feed(piece):
            given.append(said)
            yield chunks.text(0, said)
        if cutter.finish is not None:
            break
    else:
        if not text.good:
            yield openai_body(NoCompletion("the miner failed in the middle of its answer"))
            return
        if said := cutter.end():
            given.append(said)
            yield chunks.text(0, said)
    yield chunks.closing(0, cutter.finish or "stop")
    for chunk in chunks.accounts(prompt, ["".join(given)]):
        yield chunk


class _Chunks:
    """Makes the chunks of one completion."""

    def __init__(self, chat: ChatRequest, event_id: str) -> None:
        self._with_usage = chat.stream_options is not None and chat.stream_options.include_usage
        self._shared: Chunk = {
            "id": f"chatcmpl-{event_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": MODEL,
        }
        if self._with_usage:
            self._shared["usage"] = None

    def _chunk(self, index: int, delta: dict[str, str], finish: str | None) -> Chunk:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._shared, "choices": [choice]}

    def opening(self, index: int) -> Chunk:
        return self._chunk(index, {"role": "assistant", "content": ""}, None)

    def text(self, index: int, piece: str) -> Chunk:
        return self._chunk(index, {"content": piece}, None)

    def closing(self, index: int, finish: str) -> Chunk:
        return self._chunk(index, {}, finish)

    def accounts(self, prompt: Sequence[str], answers: Sequence[str]) -> Iterator[Chunk]:
        if self._with_usage:
            yield {**self._shared, "choices": [], "usage": usage(prompt, answers)}


async def _events(chunks: AsyncIterator[Chunk]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
    yield b"data: [DONE]\n\n"
