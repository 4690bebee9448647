"""Residents that answer: who verifies the caller, how long they take, and how they fail."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Annotated

import msgspec

from coremesh.errors import BadMessages, BadRequest
from coremesh.wire.btauth import verify
from coremesh.wire.nonces import InMemoryNonceStore
from devnet.miners.exchange import Exchange
from devnet.miners.minds import Mind
from devnet.miners.tasks import Ask, Summarise, task_of

FORWARD = "/forward"
BACKWARD = "/backward"
LATE_S = 15.0
"""When a time-out is played: longer than any validator waits by default."""

Pace = Callable[[random.Random], float]
Text = Annotated[str, msgspec.Meta(max_length=200_000)]


class Forward(msgspec.Struct):
    """The body of ``/forward``; unknown fields are ignored."""

    roles: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=1024)]
    messages: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=1024)]
    timeout: float = 10.0


class Backward(Forward):
    """The body of ``/backward``."""

    completion: Text = ""
    rewards: Annotated[list[float], msgspec.Meta(max_length=4096)] = []


def prompt(rng: random.Random) -> float:
    """The pace of a miner with a model at hand: some tens of milliseconds."""
    return rng.uniform(0.02, 0.12)


def tardy(rng: random.Random) -> float:
    """The pace of a miner that is mostly late for a training step of four seconds, and in time for a user."""
    return rng.uniform(0.3, 1.5) if rng.random() < 0.25 else rng.uniform(4.5, 7.5)


class Answering:
    """A resident that does its work: checks the signature, thinks for a while, answers."""

    def __init__(self, hotkey: str, mind: Mind, pace: Pace, rng: random.Random) -> None:
        self._hotkey = hotkey
        self._mind = mind
        self._pace = pace
        self._rng = rng
        self._nonces = InMemoryNonceStore()

    async def __call__(self, exchange: Exchange) -> None:
        """Answer ``/forward`` or ``/backward``. Raises a CoremeshError for a request that is not fair."""
        body = await exchange.body()
        verify(exchange.headers, body, exchange.method, exchange.target, self._hotkey, self._nonces)
        path = exchange.target.partition("?")[0]
        request = _decode(body, Forward if path == FORWARD else Backward)
        if path == BACKWARD:
            await exchange.reply_json(200, {})
        elif await exchange.still_there_after(self._pace(self._rng)):
            await self.complete(exchange, request)

    async def complete(self, exchange: Exchange, request: Forward) -> None:
        """Send the completion, as events where the caller takes them."""
        completion = self.think(request)
        if "text/event-stream" in exchange.headers.get("accept", ""):
            await _stream(exchange, completion)
        else:
            await exchange.reply_json(200, {"completion": completion})

    def think(self, request: Forward) -> str:
        """The completion of a request."""
        task = task_of(request.roles, request.messages)
        if isinstance(task, Ask):
            return self._mind.ask(task.about)
        if isinstance(task, Summarise):
            return " ".join(re.split(r"(?<=[.!?])\s+", task.text)[:2]) or self._mind.answer("")
        return self._mind.answer(task.question)


class Flaky(Answering):
    """Good on half of its calls; on the others late, failing, or gone in the middle."""

    async def complete(self, exchange: Exchange, request: Forward) -> None:
        """Send the completion, or do not."""
        luck = self._rng.random()
        if luck < 0.2:
            if await exchange.still_there_after(LATE_S):
                await super().complete(exchange, request)
        elif luck < 0.35:
            await exchange.reply_json(500, {"message": "internal error"})
        elif luck < 0.5:
            await exchange.cut_off()
        else:
            await super().complete(exchange, request)


def _decode(body: bytes, shape: type[Forward]) -> Forward:
    try:
        request = msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, RecursionError) as error:
        # RecursionError: nested too deeply.
        raise BadRequest(f"the body is not what this path takes: {error}") from None
    if len(request.roles) != len(request.messages):
        raise BadMessages("roles and messages are not equally many")
    if any(role not in ("system", "user", "assistant") for role in request.roles):
        raise BadMessages("a role is system, user or assistant")
    return request


async def _stream(exchange: Exchange, completion: str) -> None:
    """Server-sent events: a delta for each word, then ``[DONE]``."""
    await exchange.start(200, {"content-type": "text/event-stream", "cache-control": "no-store"})
    for delta in re.findall(r"\S+\s*", completion):
        event = json.dumps({"delta": delta}, ensure_ascii=False)
        await exchange.send(f"data: {event}\n\n".encode())
    await exchange.send(b"data: [DONE]\n\n", more=False)
