from __future__ import annotations

from tests.integration.querier.conftest import own_redis, wallet_path, world

__all__ = ["own_redis", "wallet_path", "world"]
