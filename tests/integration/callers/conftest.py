from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest

from coremesh.history.callers import RedisCallers
from coremesh.metagraph import Neuron, Nominator
from coremesh.wire.btauth import Signer
from coremesh.wire.keys import KeyPair, keypair_from_uri
from tests.integration.querier.conftest import World, own_redis, wallet_path, world
from tests.integration.querier.network import VALIDATOR, Miner, make_metagraph

__all__ = ["own_redis", "wallet_path", "world"]

OWN = str(VALIDATOR.ss58_address)
BODY = {"roles": ["user"], "messages": ["Why is the sky blue?"]}
QUESTION = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisCallers]:
    """What ``coremesh keys`` uses."""
    callers = RedisCallers(redis_url, 1)
    yield callers
    await callers.close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@dataclass
class Neuronal:
    """Somebody with a hotkey."""

    name: str
    keypair: KeyPair = field(init=False)
    signer: Signer = field(init=False)

    def __post_init__(self) -> None:
        self.keypair = keypair_from_uri(f"//QuerierTests/caller/{self.name}")
        self.signer = Signer(self.keypair)

    @property
    def hotkey(self) -> str:
        return str(self.keypair.ss58_address)

    def request(
        self, path: str = "/forward", body: Any = BODY, *, receiver: str = OWN, nonce_ns: int | None = None
    ) -> dict[str, Any]:
        """What httpx needs to POST ``body``, signed."""
        content = json.dumps(body).encode()
        headers = self.signer.headers("POST", path, content, receiver, nonce_ns)
        return {"url": path, "content": content, "headers": {**headers, "content-type": "application/json"}}

    async def ask(self, client: httpx.AsyncClient, *args: Any, **kwargs: Any) -> httpx.Response:
        return await client.post(**self.request(*args, **kwargs))


async def register(
    world: World,
    miners: Sequence[Miner],
    callers: Sequence[Neuronal],
    delegated: dict[str, float] | None = None,
) -> None:
    """Publish a metagraph with the callers as neurons that serve nothing; ``delegated`` is TAO to us by name."""
    ports = [1] * len(miners)
    known = await world.history.metagraph()
    if known is not None:
        ports = [neuron.port for neuron in known.neurons[1 : len(miners) + 1]]
    metagraph = make_metagraph(list(miners), ports, time_ms=time.time_ns() // 1_000_000)
    first = metagraph.size
    neurons = tuple(
        Neuron(uid=first + n, hotkey=caller.hotkey, coldkey=f"5Cold-{caller.name}")
        for n, caller in enumerate(callers)
    )
    nominators = tuple(
        Nominator(coldkey=f"5Cold-{name}", stake=stake) for name, stake in (delegated or {}).items()
    )
    await world.publish(
        msgspec.structs.replace(metagraph, neurons=metagraph.neurons + neurons, nominators=nominators)
    )
