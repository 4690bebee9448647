"""``python -m services.weights``: the service; ``python -m services.weights replay``: the proof of its scores."""

from __future__ import annotations

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
from services.weights.replay import main as replay

PORT = 8083
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
    return create_app(engine, loops, health, token=token, alpha=weights.alpha)


if __name__ == "__main__":
    if sys.argv[1:2] == ["replay"]:
        sys.exit(replay(sys.argv[2:]))
    sys.exit(run_service("weights", factory, SECTIONS, port=PORT))
