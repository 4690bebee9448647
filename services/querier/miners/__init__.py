"""The client that asks a hostile network: many hosts at once, every answer bounded."""

from __future__ import annotations

from services.querier.miners.answers import MinerAnswer, tidy
from services.querier.miners.client import MinerClient, MinerClientClosed
from services.querier.miners.fanout import FanOut
from services.querier.miners.limits import MinerLimits, Target, Tls
from services.querier.miners.rewards import RewardCounts
from services.querier.miners.streaming import MinerStream

__all__ = [
    "FanOut",
    "MinerAnswer",
    "MinerClient",
    "MinerClientClosed",
    "MinerLimits",
    "MinerStream",
    "RewardCounts",
    "Target",
    "Tls",
    "tidy",
]
