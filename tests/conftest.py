from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from coremesh.history.redis import RedisHistory
from tests.redis_server import RedisServer

# Kernels for GPUs are interpreted. Triton looks at it when it is imported, by whomever.
os.environ["TRITON_INTERPRET"] = "1"
# How long an example takes says nothing on a shared machine.
settings.register_profile("coremesh", deadline=None)
settings.load_profile("coremesh")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--second-chance",
        action="store_true",
        help="run a failed test of real processes (tests/integration, tests/e2e) once more, and name it at the end",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Share the tests out among pytest's processes, and give those of real processes a second chance if asked to.

    What shares costly set-up stays in one process: a directory of unit tests, a file of others. The slow ones go first,
    so that the processes end together. Tests of processes race with whatever else a shared machine does. A defect
    fails twice; what failed once is listed as RERUN. Unit and contract tests never get a second chance.
    """
    here = Path(__file__).parent
    integration, e2e = here / "integration", here / "e2e"
    items.sort(key=lambda item: not item.path.is_relative_to(integration))
    for item in items:
        parts = item.path.relative_to(here).parts
        whole = parts[0] == "unit" or parts[:2] == ("integration", "chain")
        item.add_marker(pytest.mark.xdist_group("/".join(parts[:2] if whole else parts)))
    if not config.getoption("--second-chance"):
        return
    for item in items:
        if item.path.is_relative_to(integration) or item.path.is_relative_to(e2e):
            item.add_marker(pytest.mark.flaky(reruns=1))


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
