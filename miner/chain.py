"""The miner and the chain: its axon published there, and the stakes of those who ask read from there."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import bittensor as bt
import structlog

from coremesh.errors import ChainUnavailable
from coremesh.wire.axon import Endpoint, NotPublished, NotRegistered, ensure, neurons, refusals
from coremesh.wire.keys import KeyPair
from miner.gate import Stakes

log = structlog.get_logger(__name__)

RAO = 10**9
CALL_TIMEOUT_S = 30.0
"""For one chain call. An extrinsic waits for its block."""
CLOSE_TIMEOUT_S = 2.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class MinerChain:
    """One hotkey on one subnet."""

    def __init__(self, network: str, netuid: int, keypair: KeyPair, stakes: Stakes) -> None:
        self._network = network
        self._netuid = netuid
        self._keypair = keypair
        self._stakes = stakes
        self._client: bt.Client | None = None

    async def close(self) -> None:
        """Close the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):  # it is not needed any more
                await asyncio.wait_for(client.close(), CLOSE_TIMEOUT_S)

    async def publish(self, endpoint: Endpoint, *, deadline_s: float) -> None:
        """Publish ``endpoint`` as our axon, unless the chain shows it already; try again for ``deadline_s`` seconds.

        Returns when a read of the chain shows it. Raises NotRegistered at once, ChainUnavailable or NotPublished at
        the deadline.
        """
        deadline = time.monotonic() + deadline_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                with refusals(self._network, endpoint):
                    async with asyncio.timeout(
                        min(2 * CALL_TIMEOUT_S, max(0.1, deadline - time.monotonic()))
                    ):
                        await self._publish_once(endpoint)
                return
            except NotRegistered:
                raise
            except (ChainUnavailable, NotPublished) as problem:
                if time.monotonic() + pause > deadline:
                    raise
                log.warning("axon not published yet", reason=problem.message, retry_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def follow(self, every_s: float) -> None:
        """Read the stakes again and again, for ever; trouble with the chain leaves the last ones in force."""
        while True:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await self._neurons(await self._connected())
            # The SDK's own errors, the transport's, and what comes of a node that says what nobody foresaw.
            except Exception as error:
                log.warning("stakes not read", reason=type(error).__name__)
                await asyncio.sleep(
                    min(every_s, FIRST_PAUSE_S if self._stakes.by_hotkey is None else every_s)
                )
            else:
                await asyncio.sleep(every_s)

    async def _publish_once(self, endpoint: Endpoint) -> None:
        client = await self._connected()
        written = await ensure(
            client, self._netuid, self._keypair, endpoint, read=lambda: self._neurons(client)
        )
        if written:
            log.info("axon published", ip=endpoint.ip, port=endpoint.port, netuid=self._netuid)

    async def _neurons(self, client: bt.Client) -> list[Any]:
        found = await neurons(client, self._netuid)
        self._stakes.by_hotkey = {neuron.hotkey: neuron.total_stake.rao / RAO for neuron in found}
        return found

    async def _connected(self) -> bt.Client:
        """The one client of this process; it reconnects by itself once it has been connected."""
        if self._client is None:
            client = bt.Client(self._network)
            await client.connect()
            self._client = client
        return self._client
