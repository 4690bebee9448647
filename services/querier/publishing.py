"""Keeping this querier's axon on the chain, without being in the way of serving."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import structlog

from coremesh.errors import CoremeshError
from coremesh.service.auth import is_loopback
from coremesh.settings import ChainSettings, HttpSettings, QuerierSettings
from coremesh.wire.axon import Endpoint, publish_aside
from coremesh.wire.keys import KeyPair
from services.querier.snapshot import SnapshotFollower

log = structlog.get_logger(__name__)

LOOK_S = 1.0
AGAIN_S = 30.0
LONGEST_S = 1800.0

Publish = Callable[[Endpoint], Awaitable[bool]]


def endpoint_of(querier: QuerierSettings, http: HttpSettings, *, default_port: int) -> Endpoint | None:
    """What to publish, by the settings; None for nothing."""
    if querier.axon_off:
        return None
    ip = querier.axon_ip
    if not ip:
        try:
            listening = ip_address(http.host)
        except ValueError:
            return None
        if listening.is_unspecified or is_loopback(http.host):
            return None
        ip = http.host
    return Endpoint(ip, querier.axon_port or http.port or default_port)


class Axon:
    """Publishes ``endpoint`` once the metagraph shows us as a validator, and again when the chain shows another.

    Not before: peers would take a serving neuron that is no validator for a miner and ask it what they train on.
    """

    def __init__(
        self, endpoint: Endpoint, snapshot: SnapshotFollower, own_hotkey: str, publish: Publish
    ) -> None:
        self._endpoint = endpoint
        self._snapshot = snapshot
        self._own = own_hotkey
        self._publish = publish

    def due(self) -> bool:
        """Whether we are a validator whose axon the chain shows elsewhere or not at all."""
        metagraph = self._snapshot.current
        neuron = next((n for n in metagraph.neurons if n.hotkey == self._own), None) if metagraph else None
        return (
            metagraph is not None
            and neuron is not None
            and metagraph.is_validator(neuron)
            # As the chain stores it: an address of IPv6 may be written in several ways.
            and Endpoint(neuron.ip, neuron.port).stored != self._endpoint.stored
        )

    async def run(self) -> None:
        """Keep the axon on the chain, for ever. The chain being away or refusing only makes it wait longer."""
        pause = AGAIN_S
        while True:
            if not self.due():
                await asyncio.sleep(LOOK_S)
                continue
            try:
                written = await self._publish(self._endpoint)
                pause = AGAIN_S
                if written:
                    log.info("axon published", ip=self._endpoint.ip, port=self._endpoint.port)
            except CoremeshError as error:
                pause = min(2 * pause, LONGEST_S)
                log.warning(
                    "axon not published yet", reason=error.message, remedy=error.remedy, retry_in_s=pause
                )
            # The metagraph shows a new axon only at its next sync.
            await asyncio.sleep(pause)


def publisher(chain: ChainSettings, keypair: KeyPair) -> Publish:
    """Publishes on the chain in the settings, with a deadline for each attempt."""

    async def publish(endpoint: Endpoint) -> bool:
        return await publish_aside(
            chain.network,
            chain.fallbacks,
            chain.netuid,
            keypair,
            endpoint,
            deadline_s=chain.submit_timeout_s,
        )

    return publish
