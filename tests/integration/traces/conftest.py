from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.querier.conftest import own_redis, wallet_path, world
from tests.integration.traces.collector import Collector

__all__ = ["collector", "own_redis", "wallet_path", "world"]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found
