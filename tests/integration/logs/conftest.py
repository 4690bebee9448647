from __future__ import annotations

from tests.integration.querier.conftest import own_redis, wallet_path, world
from tests.integration.traces.conftest import collector

__all__ = ["collector", "own_redis", "wallet_path", "world"]
