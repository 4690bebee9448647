"""The HTTP surface of gating: POST /score, GET /head."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
from fastapi import Depends, FastAPI, Request, Response

from coremesh.contracts import HeadResponse, ScoreRequest, ScoreResponse, took
from coremesh.history.redis import RedisHistory
from coremesh.service import Health, Loops, create_app
from coremesh.service.auth import refuse_open_bind, require_token
from coremesh.service.gpu import watch_gpus
from coremesh.service.metrics import watch_fold
from coremesh.service.route import take_short_way
from coremesh.settings import (
    ChainSettings,
    GatingSettings,
    HttpSettings,
    MeshSettings,
    RedisSettings,
    Settings,
)
from coremesh.types import new_event_id
from services.gating.batching import STUCK_AFTER, BatchingEncoder
from services.gating.encoder import TextEncoder
from services.gating.generation import FOLD, NEXT, ROLE, Generations
from services.gating.learning import GatingLearning
from services.gating.service import GatingService
from services.gating.snapshot import RollBook


def create_gating_app(settings: Settings, encoder: TextEncoder, loops: Loops, health: Health) -> FastAPI:
    """The app, with the encoder already loaded. Raises BadSetting for an address that others can reach."""
    gating, mesh = settings[GatingSettings], settings[MeshSettings]
    token = mesh.token.get_secret_value()
    refuse_open_bind(
        settings[HttpSettings].host, bool(token), remedy="Set COREMESH_MESH_TOKEN for all services."
    )
    redis = settings[RedisSettings]
    history = RedisHistory(
        redis.address, settings[ChainSettings].netuid, timeout=timedelta(seconds=redis.timeout_s)
    )
    batching = BatchingEncoder(encoder, max_queued=gating.queue, cache_entries=gating.cache_entries)
    learning = GatingLearning(gating, batching)
    book = RollBook(history)
    service = GatingService(gating, batching, book, learning.initial(), lacking=lambda: generations.lacking)
    generations = Generations(
        history,
        learning,
        holder=f"{socket.gethostname()}:{os.getpid()}:{new_event_id()}",
        on_state=service.on_state,
        every=timedelta(seconds=gating.follow_s),
        save_every=timedelta(seconds=gating.save_s),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with batching:
            loops.start("gating-head", generations.run())
            loops.start("metagraph", book.run())
            loops.start("fold-metrics", watch_fold(FOLD, lambda: generations.status))
            loops.start("next-fold-metrics", watch_fold(NEXT, lambda: generations.status_beside))
            loops.start("encoder", batching.watch())
            loops.start("gpus", watch_gpus())
            yield
            await loops.stop()
        await history.close()

    async def redis_answers() -> str | None:
        await history.ping()
        return None

    async def encoder_alive() -> str | None:
        if not batching.alive:
            return "the encoder's thread is dead"
        if batching.busy_s > STUCK_AFTER.total_seconds() / 4:
            return f"the encoder has had one batch for {batching.busy_s:.0f} s"
        return None

    async def metagraph_known() -> str | None:
        return None if book.roll is not None else "no metagraph has been published yet"

    async def head_grown() -> str | None:
        return generations.lacking

    health.checks.update(
        redis=redis_answers, encoder=encoder_alive, metagraph=metagraph_known, head=head_grown
    )
    app = create_app(
        "coremesh gating",
        description="Learns from events which miners to ask for a prompt.",
        lifespan=lifespan,
        health=health,
    )
    allow = require_token(token)
    guard = [Depends(allow)]

    async def score(request: ScoreRequest, http: Request) -> Response:
        # Serialised here: FastAPI would validate hundreds of scores once more on every request.
        began = time.perf_counter()
        answer = await service.score(request)
        headers = took(time.perf_counter() - began)
        told = msgspec.json.encode(answer.__dict__)
        return Response(told, media_type="application/json", headers=headers)

    app.router.add_api_route(
        "/score",
        score,
        methods=["POST"],
        dependencies=guard,
        summary="Whom to ask for a prompt?",
        response_model=ScoreResponse,
    )
    take_short_way(app, "/score", ScoreRequest, score, allow=allow)

    @app.get("/head", dependencies=guard, summary="What has been learnt?")
    async def head() -> HeadResponse:
        return HeadResponse(
            rule=gating.rule,
            encoder=encoder.identity,
            version=service.version,
            last_id=service.last_id,
            steps=service.fold.learnt,
            hotkeys=len(service.fold.head),
            features=service.fold.head.features,
            leading=generations.status.leading,
            leader=await history.leader(ROLE),
        )

    _ = head
    return app
