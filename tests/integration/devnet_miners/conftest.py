from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.devnet_miners.street import Neighbours, running_street


@pytest.fixture(scope="module")
def street() -> Iterator[Neighbours]:
    """All residents."""
    with running_street() as neighbours:
        yield neighbours
