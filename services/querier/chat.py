"""The OpenAI-compatible endpoints: ``POST /v1/chat/completions`` and ``GET /v1/models``.

``usage`` is approximate (see tokens.py): miners run models of their own. ``n`` gives the n best completions of
different miners, fewer when fewer answered. What the network chose is in the headers ``x-coremesh-uid``, ``-hotkey``
and ``-event``.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError

from coremesh.contracts import InferenceRequest
from coremesh.errors import BadRequest, NotFound
from services.querier import tokens
from services.querier.access import Access, Slots
from services.querier.forwarder import Forwarder
from services.querier.limits import Limits
from services.querier.openai_errors import answer_in_openai_shape
from services.querier.openai_models import MODEL, ChatRequest
from services.querier.query import Answer

_STARTED = int(time.time())


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion as the caller wants it: cut at stop sequences and at the token bound."""

    text: str
    finish: str


class BadChatRequest(BadRequest):
    """The body is no chat request."""

    code = "invalid_request"


def install(app: FastAPI, *, access: Access, slots: Slots, limits: Limits, forwarder: Forwarder) -> None:
    """Add the ``/v1`` endpoints to ``app``, with errors in OpenAI's shape."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(access.caller)], tags=["OpenAI-compatible"])

    @router.post(
        "/chat/completions",
        summary="Ask the network, as with OpenAI",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": ChatRequest.model_json_schema()}},
            }
        },
    )
    async def completions(request: Request) -> Response:
        chat = _parse(await request.body())
        query = limits.inference(_inference(chat))
        with slots:
            answer = await forwarder.ask(query, within_s=limits.patience_s(query))
        choices = [_cut(answer.completions[i], chat) for i in answer.ranked()[: chat.n or 1]]
        headers = {
            "x-coremesh-uid": str(answer.neuron.uid),
            "x-coremesh-hotkey": answer.neuron.hotkey,
            "x-coremesh-event": answer.id,
        }
        if answer.degraded:
            headers["x-coremesh-degraded"] = ",".join(answer.degraded)
        usage = _usage(query_text=[m.content for m in query.messages], choices=choices)
        if chat.stream:
            with_usage = chat.stream_options is not None and chat.stream_options.include_usage
            chunks = _chunks(answer, choices, usage if with_usage else None)
            return StreamingResponse(
                _events(chunks),
                media_type="text/event-stream",
                headers={**headers, "cache-control": "no-cache"},
            )
        return JSONResponse(_completion(answer, choices, usage), headers=headers)

    @router.get("/models", summary="The models: one, the network")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model()]}

    @router.get("/models/{name}", summary="One model")
    async def model(name: str) -> dict[str, Any]:
        _check_model(name)
        return _model()

    _ = (completions, models, model)
    app.include_router(router)
    answer_in_openai_shape(app, prefix="/v1/")


def _parse(body: bytes) -> ChatRequest:
    try:
        chat = ChatRequest.model_validate_json(body or b"null")
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise BadChatRequest(f"{where}: {detail['msg']}" if where else detail["msg"]) from None
    _check_model(chat.model)
    return chat


def _check_model(name: str) -> None:
    if name != MODEL:
        raise NotFound(f"there is no model {name[:80]!r}", remedy=f"Use the model {MODEL!r}.")


def _inference(chat: ChatRequest) -> InferenceRequest:
    wishes = chat.coremesh
    return InferenceRequest(
        messages=tuple(turn.message(at) for at, turn in enumerate(chat.messages)),
        timeout=wishes.timeout,
        top_k=wishes.top_k,
        use_reward_model=wishes.use_reward_model,
        wait_for=wishes.wait_for,
        private=wishes.private,
        return_all=(chat.n or 1) > 1,
    )


def _cut(text: str, chat: ChatRequest) -> Choice:
    text = tokens.until(text, chat.stops)
    if chat.most_tokens is not None:
        kept = tokens.first(text, chat.most_tokens)
        if len(kept) < len(text.rstrip()):
            return Choice(kept, "length")
    return Choice(text, "stop")


def _usage(*, query_text: list[str], choices: list[Choice]) -> dict[str, int]:
    asked = sum(tokens.count(text) for text in query_text)
    answered = sum(tokens.count(choice.text) for choice in choices)
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _completion(answer: Answer, choices: list[Choice], usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage,
    }


def _chunks(answer: Answer, choices: list[Choice], usage: dict[str, int] | None) -> Iterator[dict[str, Any]]:
    shared: dict[str, Any] = {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": MODEL,
    }
    if usage is not None:
        shared["usage"] = None

    def chunk(index: int, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**shared, "choices": [choice]}

    for index, choice in enumerate(choices):
        yield chunk(index, {"role": "assistant", "content": ""}, None)
        for piece in tokens.pieces(choice.text):
            yield chunk(index, {"content": piece}, None)
        yield chunk(index, {}, choice.finish)
    if usage is not None:
        yield {**shared, "choices": [], "usage": usage}


async def _events(chunks: Iterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
    yield b"data: [DONE]\n\n"


def _model() -> dict[str, Any]:
    return {"id": MODEL, "object": "model", "created": _STARTED, "owned_by": "coremesh"}
