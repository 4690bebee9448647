from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from coremesh.history.redis import RedisHistory
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    # A unix socket's path may have 107 characters at most, so not under pytest's long tmp_path.
    directory = Path(tempfile.mkdtemp(prefix="coremesh-redis-"))
    server = RedisServer(directory)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis."""
    redis.Redis.from_url(redis_server.url).flushall()
    return redis_server.url


@pytest.fixture
async def redis_history(redis_url: str) -> AsyncIterator[RedisHistory]:
    history = RedisHistory(redis_url, netuid=1)
    yield history
    await history.close()
