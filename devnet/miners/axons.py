"""Publishing where residents listen: what ``ServeAxon`` writes and validators read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import bittensor as bt

from coremesh.errors import ChainUnavailable, CoremeshError
from coremesh.wire.axon import Endpoint, NotPublished, neurons, serve
from coremesh.wire.axon import axons as shown_axons
from coremesh.wire.keys import KeyPair

CALL_TIMEOUT_S = 15.0
"""For one chain call; an extrinsic waits for its block."""
PAUSE_S = 0.5
AT_ONCE = 6


@dataclass(frozen=True, slots=True)
class Axon:
    """Where one hotkey listens."""

    keypair: KeyPair
    host: str
    port: int

    @property
    def endpoint(self) -> Endpoint:
        """The same for others."""
        return Endpoint(self.host, self.port)


async def publish(
    network: str,
    netuid: int,
    axons: Sequence[Axon],
    *,
    deadline_s: float,
    on_gone: Callable[[Axon], None] = lambda _axon: None,
) -> int:
    """Publish those of ``axons`` that the chain does not show so already; how many that were.

    Tries again until ``deadline_s`` seconds have passed. Returns when a read of the chain shows all of them. One whose
    hotkey has lost its uid, while others have theirs, is left out: ``on_gone`` is told. Raises ChainUnavailable when
    the chain did not answer, NotPublished when it did.
    """
    deadline = time.monotonic() + deadline_s
    published: set[str] = set()
    gone: dict[str, Axon] = {}
    problem: CoremeshError = ChainUnavailable(f"the chain at {network} does not answer")
    while True:
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                async with bt.Client(network, fallback_endpoints=[], archive_endpoints=[]) as client:
                    while missing := await _missing(client, netuid, axons, gone):
                        problem = await _serve(client, netuid, missing, published) or problem
                        if time.monotonic() + PAUSE_S > deadline:
                            raise problem
                    for axon in gone.values():
                        on_gone(axon)
                    return len(published)
        except (bt.BittensorError, OSError, TimeoutError) as error:
            if isinstance(error, OSError | bt.RpcConnectionError) and not isinstance(problem, NotPublished):
                problem = ChainUnavailable(f"the chain at {network} does not answer")
        if time.monotonic() + PAUSE_S > deadline:
            raise problem
        await asyncio.sleep(PAUSE_S)


async def _missing(
    client: bt.Client, netuid: int, axons: Sequence[Axon], gone: dict[str, Axon]
) -> list[Axon]:
    """Those that the chain does not show as they are; ``gone`` becomes those that have no uid any more."""
    async with asyncio.timeout(CALL_TIMEOUT_S):
        shown = shown_axons(await neurons(client, netuid))
    without = {axon.keypair.ss58_address: axon for axon in axons if axon.keypair.ss58_address not in shown}
    gone.clear()
    if len(without) < len(axons):  # where nobody is registered something else is wrong
        gone.update(without)
    return [
        axon
        for axon in axons
        if axon.keypair.ss58_address not in gone
        and shown.get(axon.keypair.ss58_address) != axon.endpoint.stored
    ]


async def _serve(
    client: bt.Client, netuid: int, axons: Sequence[Axon], published: set[str]
) -> NotPublished | None:
    """Submit ``axons``, a few at once; the first refusal, if there was one."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(axon: Axon) -> NotPublished | None:
        async with gate:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await serve(client, netuid, axon.keypair, axon.endpoint)
            except bt.RpcConnectionError:
                raise
            except (bt.BittensorError, TimeoutError) as error:
                reason = str(error) or "no block took it in time"
                return NotPublished(
                    f"the chain does not take the axon {axon.host}:{axon.port} of {axon.keypair.ss58_address}: {reason}"
                )
        published.add(axon.keypair.ss58_address)
        return None

    refusals = [refusal for refusal in await asyncio.gather(*map(one, axons)) if refusal is not None]
    if refusals:
        await asyncio.sleep(PAUSE_S)
    return refusals[0] if refusals else None
