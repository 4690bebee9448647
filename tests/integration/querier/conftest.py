from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from bittensor.wallet import Wallet

from coremesh.events import ForwardEvent
from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph, difference
from coremesh.service import Health, Loops
from coremesh.settings import (
    ChainSettings,
    HttpSettings,
    MeshSettings,
    QuerierSettings,
    RedisSettings,
    Settings,
    TrainerSettings,
    WalletSettings,
    load,
)
from services.querier.app import create_app
from tests.integration.querier.network import (
    VALIDATOR,
    Behaviour,
    FakeServices,
    Miner,
    make_metagraph,
    make_miners,
)
from tests.integration.querier.serving import Servers
from tests.redis_server import RedisServer
from tests.wait import wait_until


@pytest.fixture
def wallet_path(tmp_path: Path) -> Path:
    wallet = Wallet("validator", "default", str(tmp_path / "wallets"))
    wallet.hotkey_file.set_keypair(VALIDATOR, encrypt=False)
    return tmp_path / "wallets"


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that may be killed."""
    with tempfile.TemporaryDirectory(prefix="coremesh-q-") as directory:
        server = RedisServer(Path(directory))
        server.start()
        yield server
        server.stop()


@dataclass
class World:
    """A querier with everything around it."""

    servers: Servers
    redis_url: str
    history: RedisHistory
    wallet_path: Path
    spool: Path
    services: FakeServices
    services_url: str = ""
    died: list[str] | None = None
    queriers: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def miners(self, *behaviours: Behaviour, publish: bool = True) -> list[Miner]:
        """Serve miners at uids 1, 2, … and publish the metagraph."""
        miners = make_miners(list(behaviours))
        ports = []
        for uid, miner in enumerate(miners, start=1):
            url = await self.servers.serve(miner.app(), f"127.3.{uid}.1")
            ports.append(int(url.rpartition(":")[2]))
        if publish:
            await self.publish(make_metagraph(miners, ports))
        return miners

    async def publish(self, metagraph: Metagraph) -> None:
        lease = await self.history.acquire("weights", "test", timedelta(seconds=60))
        assert lease is not None
        await self.history.publish(metagraph, difference(None, metagraph), lease)

    def settings(
        self,
        *,
        querier: dict[str, Any] | None = None,
        trainer: dict[str, Any] | None = None,
        http: dict[str, Any] | None = None,
        redis_url: str | None = None,
    ) -> Settings:
        sections = (
            RedisSettings(url=redis_url or self.redis_url, timeout_s=2.0),
            load([ChainSettings])[ChainSettings],
            WalletSettings(path=self.wallet_path, name="validator", hotkey="default"),
            HttpSettings(**(http or {})),
            MeshSettings(
                # Nobody listens there, whatever else runs on this machine.
                trainer_url="http://127.3.0.9:9",
                **dict.fromkeys(("gating_url", "reward_url", "weights_url"), self.services_url),  # pyright: ignore
            ),
            QuerierSettings(
                **{"allow_loopback": True, "inference_timeout_s": 2.0, "spool": self.spool, **(querier or {})}
            ),
            TrainerSettings(**(trainer or {})),
        )
        return Settings({type(s): s for s in sections}, [])

    async def querier(self, *, wait: bool = True, **settings: Any) -> httpx.AsyncClient:
        """Serve a querier; gives a client of it."""
        died: list[str] = []
        self.died = died
        loops = await self.queriers.enter_async_context(Loops(lambda name, error: died.append(name)))
        app = create_app(self.settings(**settings), loops, Health())
        servers = await self.queriers.enter_async_context(Servers())
        url = await servers.serve(app, patience_s=15)
        client = await self.queriers.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
        if wait:

            async def knows() -> bool:
                return (await client.get("/metagraph")).status_code == 200

            await wait_until(knows, why="the querier knows the metagraph")
        return client

    async def stop_querier(self) -> None:
        """Stop the querier as SIGTERM does."""
        await self.queriers.aclose()

    async def event(self, event_id: str) -> ForwardEvent:
        """The recorded event."""

        async def look() -> ForwardEvent | None:
            entry = await self.history.find(event_id)
            return entry.event if entry and isinstance(entry.event, ForwardEvent) else None

        found = await wait_until(look, why=f"event {event_id} recorded")
        assert found is not None
        return found

    async def forwards(self) -> list[ForwardEvent]:
        """All recorded forwards, oldest first."""
        return [
            entry.event
            for entry in reversed(await self.history.tail(1000))
            if isinstance(entry.event, ForwardEvent)
        ]


@pytest.fixture
async def world(
    redis_url: str, redis_history: RedisHistory, wallet_path: Path, tmp_path: Path
) -> AsyncIterator[World]:
    services = FakeServices()
    async with Servers() as servers:
        made = World(servers, redis_url, redis_history, wallet_path, tmp_path / "spool", services)
        made.services_url = await servers.serve(services.app(), "127.3.0.9")
        try:
            yield made
        finally:
            await made.queriers.aclose()
    assert made.died in (None, [])


Ask = Callable[..., Awaitable[httpx.Response]]


async def ask(client: httpx.AsyncClient, text: str = "Why is the sky blue?", **fields: Any) -> httpx.Response:
    """POST /inference."""
    return await client.post("/inference", json={"messages": [{"role": "user", "content": text}], **fields})


async def gathered(*calls: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.gather(*calls))
