"""The OpenAI-compatible endpoints: ``POST /v1/chat/completions`` and ``GET /v1/models``.

A stream tells what the first miner in gating order says while it says it; another takes its place when it fails
before it has said enough. With ``n``, with a safety filter, or when the caller insists on the reward model, it is told
from the whole, chosen by reward. ``usage`` is approximate (see tokens.py): miners run models of their own. ``n`` gives
the n best completions of different miners, fewer when fewer answered. What the network chose is in the headers
``x-coremesh-uid``, ``-hotkey`` and ``-event``.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from coremesh.contracts import InferenceRequest
from coremesh.errors import NotFound, plainly
from coremesh.metagraph import Neuron
from services.querier import openai_parameters, openai_stream
from services.querier.access import Access, hung_up
from services.querier.caller import Caller
from services.querier.choose import TopK
from services.querier.forwarder import Forwarder, begun_or_answered
from services.querier.limits import Limits
from services.querier.openai_errors import answer_in_openai_shape
from services.querier.openai_models import MODEL, ChatRequest
from services.querier.openai_parameters import BadParameter
from services.querier.openai_stream import Choice, usage
from services.querier.query import Answer
from services.querier.slots import Slots

_STARTED = int(time.time())


class NoModel(NotFound):
    """A model that is not the network."""

    code = "model_not_found"
    param = "model"


def install(app: FastAPI, *, access: Access, slots: Slots, limits: Limits, forwarder: Forwarder) -> None:
    """Add the ``/v1`` endpoints to ``app``, with errors in OpenAI's shape."""
    router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])
    reads = APIRouter(dependencies=[Depends(access.caller)])

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
    async def completions(request: Request, caller: Caller = Depends(access.asker)) -> Response:
        chat = _parse(await request.body())
        query = limits.inference(_inference(chat, limits), caller)
        if chat.stream and (chat.n or 1) == 1 and chat.coremesh.use_reward_model is not True:
            # The first in gating order is heard as it speaks; the others are still asked, scored and recorded.
            query = replace(query, live=True)
        async with slots.take(caller.priority, partial(hung_up, request)):
            forward, _ = forwarder.start(query)
            live = await begun_or_answered(forward, within_s=limits.patience_s(query))
        prompt = [message.content for message in query.messages]
        if live is not None:
            said = openai_stream.live(live, chat, event_id=query.id, prompt=prompt)
            return openai_stream.response(said, _headers(forward.first, query.id))
        answer = await forward.answer
        choices = [openai_stream.cut(answer.completions[i], chat) for i in answer.ranked()[: chat.n or 1]]
        headers = _headers(answer.neuron, answer.id)
        if answer.degraded:
            headers["x-coremesh-degraded"] = ",".join(answer.degraded)
        if chat.stream:
            return openai_stream.response(
                openai_stream.whole(choices, chat, event_id=answer.id, prompt=prompt), headers
            )
        return JSONResponse(_completion(answer, choices, prompt), headers=headers)

    @reads.get("/models", summary="The models: one, the network")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model()]}

    @reads.get("/models/{name}", summary="One model")
    async def model(name: str) -> dict[str, Any]:
        _check_model(name)
        return _model()

    _ = (completions, models, model)
    router.include_router(reads)
    app.include_router(router)
    answer_in_openai_shape(app, prefix="/v1/")


def _parse(body: bytes) -> ChatRequest:
    try:
        chat = ChatRequest.model_validate_json(body or b"null")
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        said = plainly(detail["msg"])
        raise BadParameter(f"{where}: {said}" if where else said, param=where or None) from None
    openai_parameters.check(chat.beside)
    _check_model(chat.model)
    return chat


def _check_model(name: str) -> None:
    if name != MODEL:
        raise NoModel(f"there is no model {name[:80]!r}", remedy=f"Use the model {MODEL!r}.")


def _inference(chat: ChatRequest, limits: Limits) -> InferenceRequest:
    wishes, choices = chat.coremesh, chat.n or 1
    return InferenceRequest(
        messages=tuple(turn.message(at) for at, turn in enumerate(chat.messages)),
        timeout=wishes.timeout,
        top_k=wishes.top_k if choices == 1 else _enough(choices, wishes.top_k, limits),
        use_reward_model=wishes.use_reward_model,
        wait_for=wishes.wait_for,
        private=wishes.private,
        return_all=choices > 1,
    )


def _enough(choices: int, asked: TopK, limits: Limits) -> TopK:
    """How many miners to ask for so many completions: each gives one."""
    if isinstance(asked, int):
        if asked < choices:
            remedy = "Leave coremesh.top_k out, or ask for fewer."
            raise BadParameter(
                f"n is {choices} and coremesh.top_k {asked}: a miner gives one", param="n", remedy=remedy
            )
        return asked
    if choices > (most := limits.most_miners):
        raise BadParameter(f"n is {choices} and the network has {most} uids: a miner gives one", param="n")
    return int(min(max(choices, limits.usual_topk), most))


def _headers(neuron: Neuron, event_id: str) -> dict[str, str]:
    return {
        "x-coremesh-uid": str(neuron.uid),
        "x-coremesh-hotkey": neuron.hotkey,
        "x-coremesh-event": event_id,
    }


def _completion(answer: Answer, choices: list[Choice], prompt: list[str]) -> dict[str, Any]:
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
        "usage": usage(prompt, [choice.text for choice in choices]),
    }


def _model() -> dict[str, Any]:
    return {"id": MODEL, "object": "model", "created": _STARTED, "owned_by": "coremesh"}
