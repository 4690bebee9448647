"""Settings: frozen plain values from flags, environment, a TOML file, or defaults, in that order."""

from coremesh.settings.loader import Loaded, Problem, Section, Settings, examine, load, unknown_variables
from coremesh.settings.sections import (
    ALL_SECTIONS,
    ArchiveSettings,
    ChainSettings,
    GatingSettings,
    HttpSettings,
    LogSettings,
    MeshSettings,
    QuerierSettings,
    RedisSettings,
    RewardSettings,
    TraceSettings,
    TrainerSettings,
    WalletSettings,
    WeightsSettings,
)

__all__ = [
    "ALL_SECTIONS",
    "ArchiveSettings",
    "ChainSettings",
    "GatingSettings",
    "HttpSettings",
    "Loaded",
    "LogSettings",
    "MeshSettings",
    "Problem",
    "QuerierSettings",
    "RedisSettings",
    "RewardSettings",
    "Section",
    "Settings",
    "TraceSettings",
    "TrainerSettings",
    "WalletSettings",
    "WeightsSettings",
    "examine",
    "load",
    "unknown_variables",
]
