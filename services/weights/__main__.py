"""``python -m services.weights``: the service; with a command such as ``replay``: what can be done without it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import structlog
from fastapi import FastAPI

from coremesh import __version__
from coremesh.history import History
from coremesh.history.redis import RedisHistory
from coremesh.service import Health, Loops, run_service
from coremesh.service.auth import refuse_open_bind
from coremesh.settings import (
    ArchiveSettings,
    ChainSettings,
    HttpSettings,
    MeshSettings,
    RedisSettings,
    Settings,
    WalletSettings,
    WandbSettings,
    WeightsSettings,
)
from coremesh.types import new_event_id
from coremesh.wire.wallets import load_keypair
from services.weights.app import create_app
from services.weights.archive import eventlog
from services.weights.archive.library import need_pyarrow
from services.weights.board import sink
from services.weights.chain.sdk import BittensorChain
from services.weights.engine import Engine

PORT = 8083
COMMANDS = {
    "replay": "services.weights.replay",
    "explain": "services.weights.offline",
    "verify": "services.weights.verify",
    "backtest": "services.weights.backtesting",
    "export": "services.weights.export",
}
"""Modules with a ``main(argv) -> exit code``."""
SECTIONS = (
    RedisSettings,
    ChainSettings,
    WalletSettings,
    MeshSettings,
    WeightsSettings,
    ArchiveSettings,
    WandbSettings,
)


def factory(settings: Settings, loops: Loops, health: Health) -> FastAPI:
    """Wire the service. Raises BadWallet, BadSetting."""
    redis, chain, wallet = settings[RedisSettings], settings[ChainSettings], settings[WalletSettings]
    weights, token = settings[WeightsSettings], settings[MeshSettings].token.get_secret_value()
    refuse_open_bind(
        settings[HttpSettings].host, bool(token), remedy="Set COREMESH_MESH_TOKEN, or listen on 127.0.0.1."
    )
    keypair = load_keypair(wallet.path.expanduser(), wallet.name, wallet.hotkey)
    structlog.contextvars.bind_contextvars(hotkey=keypair.ss58_address)
    history = RedisHistory(redis.address, chain.netuid, timeout=timedelta(seconds=redis.timeout_s))
    holder = f"weights-{new_event_id()}"
    followers = _followers(history, settings[ArchiveSettings], chain.netuid, holder)
    folds = tuple(name for name in followers if name not in weights.trim_folds)
    # After that: trimming does not wait for it.
    followers |= _sink(history, settings, keypair.ss58_address, holder)
    engine = Engine(
        history,
        BittensorChain(chain, keypair),
        chain_settings=chain,
        # What is not archived yet is not trimmed.
        settings=weights.model_copy(update={"trim_folds": (*weights.trim_folds, *folds)}),
        holder=holder,
    )
    return create_app(
        engine,
        loops,
        health,
        token=token,
        alpha=weights.alpha,
        netuid=chain.netuid,
        keypair=keypair,
        followers=followers,
        keep_events=weights.keep_events,
        anchor_s=min(weights.trim_s, 15.0),
    )


def _followers(
    history: History, settings: ArchiveSettings, netuid: int, holder: str
) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
    """What else follows the history, by the name of its checkpoint. Raises BadSetting."""
    made: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
    if settings.to:
        need_pyarrow()
        from services.weights.archive.archiver import NAME, Archiver
        from services.weights.archive.files import open_files

        files = open_files(settings.to, settings)
        made[NAME] = Archiver(history, files, settings, netuid=netuid, holder=holder).run
    if settings.event_log is not None and not settings.dont_save_events:
        made[eventlog.NAME] = eventlog.EventLog(history, settings.event_log, settings, holder=holder).run
    return made


def _sink(
    history: History, settings: Settings, hotkey: str, holder: str
) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
    wandb, chain = settings[WandbSettings], settings[ChainSettings]
    if wandb.mode == "off":
        return {}
    sink.need_wandb()
    config = {
        "hotkey": hotkey,
        "netuid": chain.netuid,
        "network": chain.network,
        "rule": settings[WeightsSettings].rule,
        "alpha": settings[WeightsSettings].alpha,
        "version": __version__,
    }
    name = f"{chain.netuid}-{hotkey[:8]}"
    return {sink.NAME: sink.Sink(history, wandb, name=name, config=config, holder=holder).run}


if __name__ == "__main__":
    if sys.argv[1:2] and (command := COMMANDS.get(sys.argv[1])):
        sys.exit(importlib.import_module(command).main(sys.argv[2:]))
    sys.exit(run_service("weights", factory, SECTIONS, port=PORT))
