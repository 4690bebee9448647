"""Real HTTP miners that check btauth signatures, and doubles of the services that the querier calls."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from coremesh import contracts
from coremesh.errors import BadRequest, Busy, CoremeshError, ServiceUnavailable
from coremesh.metagraph import Metagraph, Neuron
from coremesh.service.app import error_response
from coremesh.wire.btauth import HEADER_NONCE, BadAuth, verify
from coremesh.wire.keys import KeyPair, keypair_from_uri
from coremesh.wire.nonces import InMemoryNonceStore

Behaviour = Callable[[dict[str, Any]], Awaitable[str | Response]]
VALIDATOR = keypair_from_uri("//QuerierTests")


def says(text: str, after: float = 0.0) -> Behaviour:
    """A miner that answers ``text``."""

    async def behave(body: dict[str, Any]) -> str:
        if after:
            await asyncio.sleep(after)
        return text

    return behave


def answers(status: int) -> Behaviour:
    """A miner that fails with an HTTP status."""

    async def behave(body: dict[str, Any]) -> Response:
        return Response(status_code=status)

    return behave


def held(event: asyncio.Event, text: str) -> Behaviour:
    """A miner that answers once it is let."""

    async def behave(body: dict[str, Any]) -> str:
        await event.wait()
        return text

    return behave


@dataclass
class Miner:
    """One miner: what it does may be changed while it runs."""

    keypair: KeyPair
    behave: Behaviour
    asked: list[dict[str, Any]] = field(default_factory=list)
    rewarded: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    nonces: list[int] = field(default_factory=list)
    """When each question was signed, in nanoseconds."""

    @property
    def hotkey(self) -> str:
        return str(self.keypair.ss58_address)

    def app(self) -> FastAPI:
        app = FastAPI()
        nonces = InMemoryNonceStore()

        async def check(request: Request) -> dict[str, Any]:
            body = await request.body()
            verify(request.headers, body, "POST", request.url.path, self.hotkey, nonces)
            return json.loads(body)

        @app.exception_handler(BadAuth)
        async def refuse(request: Request, error: BadAuth) -> Response:
            self.refused.append(error.code)
            return error_response(error)

        @app.post("/forward")
        async def forward(request: Request) -> Response:
            body = await check(request)
            self.asked.append(body)
            self.nonces.append(int(request.headers[HEADER_NONCE]))
            answer = await self.behave(body)
            return answer if isinstance(answer, Response) else JSONResponse({"completion": answer})

        @app.post("/backward")
        async def backward(request: Request) -> Response:
            self.rewarded.append(await check(request))
            return JSONResponse({})

        return app


def make_miners(behaviours: list[Behaviour]) -> list[Miner]:
    return [Miner(keypair_from_uri(f"//QuerierTests/miner/{n}"), b) for n, b in enumerate(behaviours)]


def make_metagraph(miners: list[Miner], ports: list[int], *, block: int = 7, time_ms: int = 0) -> Metagraph:
    """A validator at uid 0, the miners at 1, 2, … on 127.3.<uid>.1, a rival validator that also serves."""
    import time

    neurons = [
        Neuron(
            uid=0,
            hotkey=str(VALIDATOR.ss58_address),
            coldkey="5Cold0",
            ip="127.3.0.1",
            port=1,
            stake=5000.0,
            permit=True,
        )
    ]
    for uid, (miner, port) in enumerate(zip(miners, ports, strict=True), start=1):
        neurons.append(
            Neuron(uid=uid, hotkey=miner.hotkey, coldkey=f"5Cold{uid}", ip=f"127.3.{uid}.1", port=port)
        )
    rival = len(neurons)
    neurons.append(
        Neuron(
            uid=rival, hotkey="5Rival", coldkey="5ColdR", ip="127.3.0.2", port=1, stake=9000.0, permit=True
        )
    )
    return Metagraph(
        netuid=1,
        block=block,
        time_ms=time_ms or time.time_ns() // 1_000_000,
        neurons=tuple(neurons),
        hotkey=str(VALIDATOR.ss58_address),
    )


TOOK_S = {"gating": 0.25, "reward": 0.5}
"""What the services say they took."""


@dataclass
class FakeServices:
    """gating, reward and weights over real HTTP, doing what a test tells them.

    Gating scores uid u with ``scores[u]`` (else -u: lower uids first), and says of a sample that it is uniform.
    Reward is ``rewards`` of the completion, else its length over 100; ``bad_texts`` are unsafe.
    """

    scores: dict[int, float] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=dict)
    moving: dict[str, float] = field(default_factory=dict)
    bad_texts: tuple[str, ...] = ()
    filtering: bool = True
    down: set[str] = field(default_factory=set)
    busy: int = 0
    delay_s: dict[str, float] = field(default_factory=dict)
    judging: dict[str, asyncio.Event] = field(default_factory=dict)
    """Texts of which the filter says nothing before the event."""
    score_requests: list[contracts.ScoreRequest] = field(default_factory=list)
    reward_requests: list[contracts.RewardRequest] = field(default_factory=list)
    filter_requests: list[contracts.FilterRequest] = field(default_factory=list)

    async def _enter(self, name: str) -> None:
        if delay := self.delay_s.get(name):
            await asyncio.sleep(delay)
        if name in self.down:
            raise ServiceUnavailable(f"{name} is down")

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.exception_handler(CoremeshError)
        async def on_error(request: Request, error: CoremeshError) -> Response:
            return error_response(error)

        @app.get("/healthz")
        async def healthz() -> dict[str, str]:
            return {}

        @app.post("/score")
        async def score(request: contracts.ScoreRequest, response: Response) -> contracts.ScoreResponse:
            response.headers.update(contracts.took(TOOK_S["gating"]))
            await self._enter("gating")
            self.score_requests.append(request)
            uids = request.uids or ()
            scores = tuple(self.scores.get(uid, -float(uid)) for uid in uids)
            ranked = sorted(uids, key=lambda uid: -scores[uids.index(uid)])
            k = 2 if request.k == "auto" else (request.k or 0)
            chosen = tuple(ranked[:k])
            return contracts.ScoreResponse(
                uids=uids,
                scores=scores,
                chosen=chosen,
                propensities=tuple(
                    len(chosen) / len(uids) if request.random else 1 / (2 + uid) for uid in chosen
                ),
                head_version=3,
                block=7,
            )

        @app.post("/reward")
        async def reward(request: contracts.RewardRequest, response: Response) -> contracts.RewardResponse:
            response.headers.update(contracts.took(TOOK_S["reward"]))
            await self._enter("reward")
            if self.busy:
                self.busy -= 1
                raise Busy("full", retry_after_s=0.05)
            self.reward_requests.append(request)
            raw = tuple(self.rewards.get(text, len(text) / 100) for text in request.completions)
            if any(math.isnan(value) for value in raw):
                raise BadRequest("the contract has no NaN")
            ones = (1.0,) * len(raw)
            return contracts.RewardResponse(
                rewards=raw,
                raw={"relevance": raw},
                normalised={"relevance": raw},
                masks={"relevance": ones},
                stack_version="stack-1",
                stats_version=5,
            )

        @app.post("/filter")
        async def filter(request: contracts.FilterRequest) -> contracts.FilterResponse:
            await self._enter("filter")
            self.filter_requests.append(request)
            for text in request.texts:
                if text in self.judging:
                    await self.judging[text].wait()
            safe = tuple(not any(bad in text for bad in self.bad_texts) for text in request.texts)
            return contracts.FilterResponse(safe=safe, scores=tuple(0.0 for _ in safe), active=self.filtering)

        @app.get("/scores")
        async def scores() -> contracts.ScoresResponse:
            await self._enter("weights")
            rows = tuple(
                contracts.ScoreRow(
                    uid=uid,
                    hotkey=hotkey,
                    score=value,
                    successes=1,
                    failures=0,
                    excluded=False,
                    reset_block=0,
                )
                for uid, (hotkey, value) in enumerate(self.moving.items())
            )
            return contracts.ScoresResponse(
                rule="softmax_ema", alpha=0.99, events=1, last_id="1-0", version=1, rows=rows
            )

        return app
