"""The querier as an app: one wiring for both of its roles."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from fastapi import FastAPI

from coremesh import service
from coremesh.contracts import TrainingResponse
from coremesh.errors import CoremeshError
from coremesh.history.callers import RedisCallers
from coremesh.history.recorder import Recorder
from coremesh.history.redis import RedisHistory
from coremesh.mesh import Mesh, Peer
from coremesh.service import Health, Loops
from coremesh.service.app import Check
from coremesh.service.auth import refuse_open_bind
from coremesh.settings import (
    ChainSettings,
    HttpSettings,
    MeshSettings,
    QuerierSettings,
    RedisSettings,
    Section,
    Settings,
    TrainerSettings,
    WalletSettings,
)
from coremesh.types import new_event_id
from coremesh.wire.adapters import make_adapter
from coremesh.wire.btauth import Signer
from coremesh.wire.wallets import load_keypair
from services.querier import api, chat
from services.querier.access import Access
from services.querier.admission import Admission
from services.querier.book import Book
from services.querier.choose import Chooser
from services.querier.dashboard import Dashboard
from services.querier.fanout import MinerFanout
from services.querier.forward import Parts
from services.querier.forwarder import Forwarder
from services.querier.hotkeys import Hotkeys
from services.querier.judge import Judge
from services.querier.keyring import KeyRing
from services.querier.leadership import Leadership
from services.querier.limits import Limits
from services.querier.metrics import EVENTS, MINER_CLIENT, SET_ASIDE_EVENTS, SPOOLED_EVENTS, TRAINER_LEADING
from services.querier.prompts import load_prompts, load_questions
from services.querier.publishing import Axon, endpoint_of, publisher
from services.querier.questions import Bundled
from services.querier.slots import Slots
from services.querier.snapshot import SnapshotFollower
from services.querier.spooling import OwnSpool
from services.querier.standing import Standing
from services.querier.trainer import Trainer

SECTIONS: tuple[type[Section], ...] = (
    RedisSettings,
    ChainSettings,
    WalletSettings,
    MeshSettings,
    QuerierSettings,
    TrainerSettings,
)
ROLE = "trainer"
DEFAULT_PORT = 8080
"""Where the api role listens when no port is set."""
READY_TIMEOUT = timedelta(seconds=1)
CALLERS_TIMEOUT_S = 1.0
"""Longest wait for Redis before a replica keeps the limits by itself: a user is waiting."""
STRAGGLERS = 4
"""Forwards in flight for each user request served at once: the rest have their answer and wait for stragglers."""


@dataclass(frozen=True, slots=True)
class Built:
    """The parts that both roles are made of, not started yet."""

    mesh: Mesh
    history: RedisHistory
    recorder: Recorder
    snapshot: SnapshotFollower
    book: Book
    fanout: MinerFanout
    forwarder: Forwarder
    callers: RedisCallers
    admission: Admission


def create_app(settings: Settings, loops: Loops, health: Health) -> FastAPI:
    """The querier's app for the role in the settings.

    Raises BadSetting (a public address without any key), BadWallet.
    """
    querier = settings[QuerierSettings]
    http = settings[HttpSettings]
    serving = querier.role == "api"
    if serving:
        refuse_open_bind(
            http.host,
            bool(querier.api_keys) or querier.require_key or querier.allow_open,
            remedy="Set COREMESH_QUERIER_API_KEYS, or COREMESH_QUERIER_REQUIRE_KEY and make keys with "
            "`coremesh keys create`, or listen on 127.0.0.1.",
        )
    keypair = load_keypair(
        settings[WalletSettings].path, settings[WalletSettings].name, settings[WalletSettings].hotkey
    )
    signer = Signer(keypair)
    structlog.contextvars.bind_contextvars(hotkey=signer.hotkey)
    own_spool = OwnSpool(querier.spool, max_events=querier.spool_max_events)
    built = _build(settings, signer, own_spool)
    _watch(health, built, rewarding=querier.use_reward_model or not querier.no_nsfw_filter)
    leadership = Leadership(
        built.history,
        role=ROLE,
        holder=f"{socket.gethostname()}:{os.getpid()}:{new_event_id()[-8:]}",
        ttl=timedelta(seconds=settings[TrainerSettings].lease_s),
        on_change=lambda leading: TRAINER_LEADING.set(leading),
    )
    trainer = Trainer(
        built.forwarder,
        settings[TrainerSettings],
        load_prompts(settings[TrainerSettings]),
        Bundled(load_questions()),
        filter_texts=not querier.no_nsfw_filter,
        leads=lambda: leadership.leading,
    )

    endpoint = endpoint_of(querier, http, default_port=DEFAULT_PORT)
    axon = (
        Axon(endpoint, built.snapshot, signer.hotkey, publisher(settings[ChainSettings], keypair))
        if endpoint is not None
        else None
    )

    dashboard = (
        Dashboard(
            settings,
            snapshot=built.snapshot,
            history=built.history,
            recorder=built.recorder,
            health=health,
            own_hotkey=signer.hotkey,
        )
        if serving and querier.dashboard
        else None
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(own_spool.close)
            await stack.enter_async_context(built.mesh)
            if dashboard is not None:
                await stack.enter_async_context(dashboard)
            stack.push_async_callback(built.history.close)
            stack.push_async_callback(built.callers.close)
            await stack.enter_async_context(built.fanout)
            stack.push_async_callback(built.forwarder.drain, http.drain_s)
            stack.push_async_callback(loops.stop)
            loops.start("metagraph", built.snapshot.run())
            loops.start("recorder", built.recorder.run())
            loops.start("gauges", _watch_sizes(built))
            if serving:
                loops.start("callers", built.admission.hold())
                if dashboard is not None:
                    dashboard.start(loops)
                if axon is not None:
                    loops.start("axon", axon.run())
            else:
                loops.start("trainer", leadership.run(trainer.run))
            yield

    app = service.create_app(
        f"coremesh {'querier' if serving else 'trainer'}",
        description="Asks the network and answers users." if serving else "Runs the training loop.",
        lifespan=lifespan,
        health=health,
        public=serving,
    )
    if serving:
        access = Access(
            querier,
            KeyRing(built.callers, cache_s=querier.key_cache_s),
            Hotkeys(querier, signer.hotkey, built.snapshot, built.callers),
            built.admission,
        )
        slots = Slots(querier.max_concurrent, queue=querier.queue_length, wait_s=querier.queue_wait_s)
        limits = Limits(querier, built.snapshot)
        app.include_router(
            api.routes(
                app,
                access=access,
                slots=slots,
                limits=limits,
                forwarder=built.forwarder,
                snapshot=built.snapshot,
                book=built.book,
                history=built.history,
                recorder=built.recorder,
            )
        )
        chat.install(app, access=access, slots=slots, limits=limits, forwarder=built.forwarder)
        if dashboard is not None:
            dashboard.install(app, access)
    else:

        @app.get("/training", tags=["training"], summary="Does this instance train?")
        async def training() -> TrainingResponse:
            return TrainingResponse(
                leading=leadership.leading, leader=await built.history.leader(ROLE), steps=trainer.steps
            )

        _ = training
    return app


def _build(settings: Settings, signer: Signer, own_spool: OwnSpool) -> Built:
    querier = settings[QuerierSettings]
    redis = settings[RedisSettings]
    mesh = Mesh(settings[MeshSettings])
    history = RedisHistory(
        redis.address, settings[ChainSettings].netuid, timeout=timedelta(seconds=redis.timeout_s)
    )
    recorder = Recorder(history, own_spool.spool, on_recorded=lambda outcome: EVENTS.labels(outcome).inc())
    book = Book()
    snapshot = SnapshotFollower(
        history,
        own_hotkey=signer.hotkey,
        max_age=timedelta(seconds=querier.max_metagraph_age_s),
        on_change=lambda metagraph: book.keep(set(metagraph.hotkeys)),
    )
    fanout = MinerFanout(make_adapter(querier.protocol, signer, querier), querier, own_hotkey=signer.hotkey)
    parts = Parts(
        snapshot=snapshot,
        chooser=Chooser(
            mesh.gating,
            Standing(mesh.weights),
            timeout=timedelta(seconds=querier.gating_timeout_s),
            auto_k=querier.inference_topk,
        ),
        fanout=fanout,
        judge=Judge(mesh.reward, filter_timeout=timedelta(seconds=querier.reward_timeout_s)),
        events=recorder,
        book=book,
        min_chars=querier.min_completion_chars,
        grace_s=querier.grace_s,
        rewarding=querier.use_reward_model,
    )
    forwarder = Forwarder(parts, most=STRAGGLERS * querier.max_concurrent)
    callers = RedisCallers(
        redis.address,
        settings[ChainSettings].netuid,
        timeout=timedelta(seconds=min(redis.timeout_s, CALLERS_TIMEOUT_S)),
    )
    return Built(
        mesh, history, recorder, snapshot, book, fanout, forwarder, callers, admission=Admission(callers)
    )


def _watch(health: Health, built: Built, *, rewarding: bool) -> None:
    async def redis() -> str | None:
        async with asyncio.timeout(READY_TIMEOUT.total_seconds()):
            await built.history.ping()
        return None

    health.checks["redis"] = _timed(redis, "Redis does not answer")
    health.checks["gating"] = _alive(built.mesh.gating)
    if rewarding:
        health.checks["reward"] = _alive(built.mesh.reward)
    health.checks["metagraph"] = built.snapshot.problem


def _timed(check: Check, problem: str) -> Check:
    async def timed() -> str | None:
        try:
            return await check()
        except TimeoutError:
            return problem

    return timed


def _alive(peer: Peer) -> Check:
    async def alive() -> str | None:
        try:
            # Whether it lives, not whether it is ready: it may be waiting for what we wait for.
            await peer.get("/healthz", READY_TIMEOUT)
        except CoremeshError as error:
            return error.message
        return None

    return alive


async def _watch_sizes(built: Built) -> None:
    """Show what could grow, for ever."""
    while True:
        SPOOLED_EVENTS.set(built.recorder.waiting)
        SET_ASIDE_EVENTS.set(built.recorder.set_aside)
        for name, size in built.fanout.gauges().items():
            MINER_CLIENT.labels(name).set(size)
        await asyncio.sleep(1.0)
