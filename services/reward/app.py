"""The HTTP surface of the reward service."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import structlog
import torch
from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel

from coremesh.contracts import (
    FilterRequest,
    FilterResponse,
    RewardRequest,
    RewardResponse,
    StackResponse,
    took,
)
from coremesh.errors import CoremeshError
from coremesh.history.redis import RedisHistory
from coremesh.service.app import Health
from coremesh.service.app import create_app as create_base_app
from coremesh.service.auth import refuse_open_bind, require_token
from coremesh.service.gpu import watch_gpus
from coremesh.service.loops import Loops
from coremesh.service.metrics import watch_fold
from coremesh.service.route import take_short_way
from coremesh.settings import (
    ChainSettings,
    HttpSettings,
    MeshSettings,
    RedisSettings,
    RewardSettings,
    Settings,
)
from services.reward import metrics
from services.reward.build import Built, build
from services.reward.config import read_config
from services.reward.engine import fused
from services.reward.fold import NAME, ROLE, SHADOW_NAME, SHADOW_ROLE
from services.reward.learning import Learning
from services.reward.models import Models, choose_device, is_fatal
from services.reward.scheduler import Scheduler
from services.reward.service import RewardService
from services.reward.statistics import Statistics

log = structlog.get_logger(__name__)

T = TypeVar("T")

STEP_CALLS = 8
"""A step is worth so many calls of a model: a prompt is then computed once for nearly all its completions."""
CALL_TOKENS_CPU, CALL_TOKENS_GPU = 512, 4096
"""Of a call while users are about, who wait for a layer of it: still enough to keep the device busy."""

OPEN_REMEDY = "Set COREMESH_MESH_TOKEN, or listen on 127.0.0.1."


class Gone(CoremeshError):
    """The caller has closed the connection; nobody reads this."""

    code = "caller_gone"
    status = 499


def create_app(settings: Settings, loops: Loops, health: Health) -> FastAPI:
    """The reward service with its models loaded. Raises BadSetting and BadModel, each naming what is wrong."""
    reward = settings[RewardSettings]
    token = settings[MeshSettings].token.get_secret_value()
    refuse_open_bind(
        settings[HttpSettings].host, bool(token), remedy="Set COREMESH_MESH_TOKEN, or listen on 127.0.0.1."
    )
    torch.set_num_threads(reward.threads)
    models = Models(choose_device(reward.device), getattr(torch, reward.dtype))
    if reward.threads == 1 and models.device == "cpu":
        # Tokenizers would otherwise start a thread for every core. Beside a GPU those have nothing else to do.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not reward.fused:
        fused.switch_off()
    config = read_config(reward.stack)
    built = build(config, models, safety=reward.nsfw_filter)
    shadow = _shadow(reward, models)
    log.info("reward stack loaded", stack=config.name, version=built.stack.version, device=models.device)
    if kernels := fused.report():
        log.info("kernels tried", **kernels)
    step = reward.step_tokens or STEP_CALLS * models.token_budget
    scheduler = Scheduler(
        step_tokens=step,
        call_tokens=min(step, CALL_TOKENS_CPU if models.device == "cpu" else CALL_TOKENS_GPU),
        queue=reward.queue,
        queue_bytes=reward.queue_bytes,
        is_fatal=is_fatal,
        stuck_after=timedelta(seconds=reward.stuck_s),
    )
    rewards = RewardService(
        built,
        scheduler,
        max_completions=reward.max_completions,
        max_text_bytes=reward.max_text_bytes,
        shadow=shadow.stack if shadow else None,
        shadow_share=reward.shadow_share,
    )
    health.checks["models"] = scheduler.problem

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            scheduler.start()
            stack.callback(scheduler.close)
            for close in (*built.closers, *(shadow.closers if shadow else ())):
                stack.push_async_callback(close)
            loops.start("reward-compute", scheduler.watch())
            loops.start("reward-models", report_halvings(models))
            loops.start("gpus", watch_gpus())
            _learn(settings, built, shadow, rewards, loops, stack)
            yield

    app = create_base_app(
        "coremesh reward",
        description="Scores completions: weighted reward functions times masks.",
        lifespan=lifespan,
        health=health,
        max_request_bytes=reward.max_request_bytes,
    )
    _add_routes(app, rewards, token)
    return app


def _add_routes(app: FastAPI, rewards: RewardService, token: str) -> None:
    allow = require_token(token)
    secured = [Depends(allow)]

    # Serialised here: FastAPI would validate all numbers once more on every request.
    async def reward(body: RewardRequest, request: Request) -> Response:
        return await timed(request, rewards.reward(body))

    async def filter_(body: FilterRequest, request: Request) -> Response:
        return await timed(request, rewards.filter(body))

    app.router.add_api_route(
        "/reward",
        reward,
        methods=["POST"],
        tags=["reward"],
        summary="Score the completions of a prompt",
        dependencies=secured,
        response_model=RewardResponse,
    )
    take_short_way(app, "/reward", RewardRequest, reward, allow=allow)
    app.router.add_api_route(
        "/filter",
        filter_,
        methods=["POST"],
        tags=["reward"],
        summary="Judge texts for safety",
        dependencies=secured,
        response_model=FilterResponse,
    )
    take_short_way(app, "/filter", FilterRequest, filter_, allow=allow)

    @app.get("/stack", tags=["reward"], summary="The stack in force", dependencies=secured)
    async def stack() -> StackResponse:
        return rewards.describe()

    _ = stack


async def timed(request: Request, work: Coroutine[Any, Any, BaseModel]) -> Response:
    """The result of ``work`` as JSON, with how long it took. Raises what it raises, and Gone."""
    began = time.perf_counter()
    result = await while_connected(request, work)
    headers = took(time.perf_counter() - began)
    return Response(result.model_dump_json(), media_type="application/json", headers=headers)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the caller closes the connection first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Gone("the caller has gone")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def report_halvings(models: Models) -> None:
    """Keep the metric of halved token budgets; for ever."""
    while True:
        for name, times in models.halvings().items():
            metrics.OOM_HALVINGS.labels(name).set(times)
        await asyncio.sleep(1.0)


def _shadow(reward: RewardSettings, models: Models) -> Built | None:
    if reward.shadow is None:
        return None
    shadow = build(read_config(reward.shadow, "COREMESH_REWARD_SHADOW"), models, safety=reward.nsfw_filter)
    log.info("shadow stack loaded", version=shadow.stack.version, share=reward.shadow_share)
    return shadow


def _learn(
    settings: Settings,
    built: Built,
    shadow: Built | None,
    rewards: RewardService,
    loops: Loops,
    stack: AsyncExitStack,
) -> None:
    """Start the folds of those stacks that learn. Redis is not asked for where none does."""

    def serve(statistics: Statistics) -> None:
        rewards.statistics = statistics

    def serve_shadow(statistics: Statistics) -> None:
        rewards.shadow_statistics = statistics

    wanted = [(built, serve, NAME, ROLE)]
    if shadow:
        wanted.append((shadow, serve_shadow, SHADOW_NAME, SHADOW_ROLE))
    wanted = [one for one in wanted if one[0].stack.learns]
    if not wanted:
        return
    redis = settings[RedisSettings]
    history = RedisHistory(
        redis.address, settings[ChainSettings].netuid, timeout=timedelta(seconds=redis.timeout_s)
    )
    stack.push_async_callback(history.close)
    holder = f"{socket.gethostname()}:{os.getpid()}"
    for one, take, name, role in wanted:
        learning = Learning(history, one.stack, take, name=name, role=role, holder=holder)
        loops.start(f"{name}-fold", learning.lead())
        loops.start(f"{name}-follow", learning.follow())
        loops.start(f"{name}-metrics", watch_fold(name, lambda learning=learning: learning.status))
