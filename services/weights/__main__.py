"""``python -m services.weights``: the service; with a command such as ``replay``: what can be done without it."""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta

from fastapi import FastAPI

from coremesh.history.redis import RedisHistory
from coremesh.service import Health, Loops, run_service
from coremesh.service.auth import refuse_open_bind
from coremesh.settings import (
    ChainSettings,
    HttpSettings,
    MeshSettings,
    RedisSettings,
    Settings,
    WalletSettings,
    WeightsSettings,
)
from coremesh.wire.wallets import load_keypair
from services.weights.app import create_app
from services.weights.chain.sdk import BittensorChain
from services.weights.engine import Engine

PORT = 8083
COMMANDS = {
    "replay": "services.weights.replay",
    "explain": "services.weights.offline",
    "verify": "services.weights.verify",
}
"""Modules with a ``main(argv) -> exit code``."""
SECTIONS = (RedisSettings, ChainSettings, WalletSettings, MeshSettings, WeightsSettings)


def factory(settings: Settings, loops: Loops, health: Health) -> FastAPI:
    """Wire the service. Raises BadWallet, BadSetting."""
    redis, chain, wallet = settings[RedisSettings], settings[ChainSettings], settings[WalletSettings]
    weights, token = settings[WeightsSettings], settings[MeshSettings].token.get_secret_value()
    refuse_open_bind(
        settings[HttpSettings].host, bool(token), remedy="Set COREMESH_MESH_TOKEN, or listen on 127.0.0.1."
    )
    keypair = load_keypair(wallet.path.expanduser(), wallet.name, wallet.hotkey)
    engine = Engine(
        RedisHistory(redis.url, chain.netuid, timeout=timedelta(seconds=redis.timeout_s)),
        BittensorChain(chain, keypair),
        chain_settings=chain,
        settings=weights,
    )
    return create_app(
        engine, loops, health, token=token, alpha=weights.alpha, netuid=chain.netuid, keypair=keypair
    )


if __name__ == "__main__":
    if sys.argv[1:2] and (command := COMMANDS.get(sys.argv[1])):
        sys.exit(importlib.import_module(command).main(sys.argv[2:]))
    sys.exit(run_service("weights", factory, SECTIONS, port=PORT))
