from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from devnet.chain.testing import RunningChain, running_chain


@pytest.fixture(scope="session", autouse=True)
def sdk_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The SDK's caches in a directory of the test run's own."""
    home = tmp_path_factory.mktemp("sdk-home")
    kept = {
        name: os.environ.get(name) for name in ("BITTENSOR_RUNTIME_CACHE_DIR", "BTCLI_TOKEN_SYMBOLS_CACHE")
    }
    os.environ["BITTENSOR_RUNTIME_CACHE_DIR"] = str(home / "runtime")
    os.environ["BTCLI_TOKEN_SYMBOLS_CACHE"] = str(home / "symbols")
    yield home
    for name, value in kept.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[RunningChain]:
    with running_chain(tmp_path, tempo=20, rate_limit=30) as running:
        yield running


@pytest.fixture(scope="session")
def still_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningChain]:
    """A chain for tests that only read."""
    with running_chain(tmp_path_factory.mktemp("still"), tempo=20, rate_limit=30) as running:
        yield running
