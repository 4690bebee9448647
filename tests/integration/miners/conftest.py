"""A stage of miners and a client that may ask them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from coremesh.wire.adapters import BtauthAdapter
from coremesh.wire.btauth import Signer
from coremesh.wire.keys import keypair_from_uri
from services.querier.miners import MinerClient, MinerLimits
from tests.integration.miners.stage import Stage


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """Each test here runs on both loops: services use uvloop, and it differs in more than speed."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


SIGNER = Signer(keypair_from_uri("//Validator"))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.close()


@pytest.fixture
async def open_client(stage: Stage) -> AsyncIterator[Callable[..., Any]]:
    """``await open_client(**limits)`` gives an open client, closed before the stage is."""
    async with AsyncExitStack() as stack:

        async def opened(**limits: Any) -> MinerClient:
            settings = MinerLimits(**{"allow_loopback": True, **limits})
            return await stack.enter_async_context(
                MinerClient(BtauthAdapter(SIGNER), SIGNER.hotkey, settings)
            )

        yield opened
