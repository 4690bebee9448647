"""The services as the command line knows them: which settings each reads, and what it needs at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from coremesh.settings import (
    ArchiveSettings,
    ChainSettings,
    GatingSettings,
    HttpSettings,
    LogSettings,
    MeshSettings,
    QuerierSettings,
    RedisSettings,
    RewardSettings,
    Section,
    TraceSettings,
    TrainerSettings,
    WalletSettings,
    WandbSettings,
    WeightsSettings,
)


@dataclass(frozen=True, slots=True)
class Service:
    """One service. ``guard`` is what has to secure an address that others can reach."""

    name: str
    module: str
    port: int
    sections: tuple[type[Section], ...]
    guard: Literal["mesh token", "caller keys", "nothing"]
    wallet: bool
    packages: tuple[str, ...]
    """What it imports beyond coremesh's own dependencies."""
    extra: str
    """The extra that installs them."""
    flags: tuple[str, ...] = field(default=())


_SHARED = (HttpSettings, LogSettings, TraceSettings)
_QUERIER = (
    *(RedisSettings, ChainSettings, WalletSettings, MeshSettings, QuerierSettings, TrainerSettings),
    *_SHARED,
)
_MODELS = ("torch", "transformers", "safetensors")

SERVICES: tuple[Service, ...] = (
    Service(
        name="querier",
        module="services.querier",
        port=8080,
        sections=_QUERIER,
        guard="caller keys",
        wallet=True,
        packages=("bittensor", "httptools"),
        extra="querier",
    ),
    Service(
        name="gating",
        module="services.gating",
        port=8081,
        sections=(GatingSettings, RedisSettings, ChainSettings, MeshSettings, *_SHARED),
        guard="mesh token",
        wallet=False,
        packages=_MODELS,
        extra="gating",
    ),
    Service(
        name="reward",
        module="services.reward",
        port=8082,
        sections=(RewardSettings, MeshSettings, RedisSettings, ChainSettings, *_SHARED),
        guard="mesh token",
        wallet=False,
        packages=_MODELS,
        extra="reward",
    ),
    Service(
        name="weights",
        module="services.weights",
        port=8083,
        sections=(
            *(RedisSettings, ChainSettings, WalletSettings, MeshSettings, WeightsSettings),
            *(ArchiveSettings, WandbSettings),
            *_SHARED,
        ),
        guard="mesh token",
        wallet=True,
        packages=("bittensor",),
        extra="weights",
    ),
    Service(
        name="trainer",
        module="services.querier",
        port=8084,
        sections=_QUERIER,
        guard="nothing",
        wallet=True,
        packages=("bittensor", "httptools"),
        extra="querier",
        flags=("--querier.role=trainer",),
    ),
)
NAMES = tuple(service.name for service in SERVICES)
