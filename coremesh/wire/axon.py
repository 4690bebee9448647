"""Publishing where a hotkey listens: what ``ServeAxon`` writes on the chain and others read there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, cast

import bittensor as bt

from coremesh.aside import in_thread
from coremesh.errors import ChainUnavailable, CoremeshError
from coremesh.wire.keys import KeyPair

CLOSE_TIMEOUT_S = 2.0

Stored = tuple[int, int]
"""An axon as the chain stores it: the address as a number, and the port."""


class NotPublished(CoremeshError):
    """The chain answers, but does not take the axon."""

    code = "axon_not_published"
    default_remedy = (
        "Check the axon's address and port, which others must be able to reach, and that this hotkey is registered "
        "on the subnet."
    )


class NotRegistered(NotPublished):
    """The hotkey has no uid on the subnet: trying again is of no use."""

    code = "not_registered"
    default_remedy = "Register it: btcli subnets register."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a hotkey listens, for others."""

    ip: str
    port: int

    @property
    def stored(self) -> Stored:
        """As the chain stores it."""
        return int(ip_address(self.ip)), self.port


async def neurons(client: Any, netuid: int) -> list[Any]:
    """The subnet's neurons as the SDK gives them. Has no deadline."""
    return await client.read("neurons", netuid=netuid, lite=True)


def axons(found: Sequence[Any]) -> dict[str, Stored]:
    """The axon of each hotkey among ``neurons``, zeros for none."""
    return {
        neuron.hotkey: (int(neuron.raw["axon_info"]["ip"]), int(neuron.raw["axon_info"]["port"]))
        for neuron in found
    }


async def serve(client: Any, netuid: int, keypair: KeyPair, endpoint: Endpoint) -> None:
    """Write ``endpoint`` as the axon of ``keypair``, once. Has no deadline; raises what the SDK raises."""
    version = ip_address(endpoint.ip).version
    intent = bt.ServeAxon(netuid=netuid, ip=endpoint.ip, port=endpoint.port, protocol=version)
    result = await client.execute(intent, keypair)
    result.raise_for_failure()


async def ensure(
    client: Any,
    netuid: int,
    keypair: KeyPair,
    endpoint: Endpoint,
    *,
    read: Callable[[], Awaitable[list[Any]]] | None = None,
) -> bool:
    """Write ``endpoint`` unless the chain shows it already; whether it had to be written. Has no deadline.

    Returns when a read of the chain shows it; ``read`` stands in for ``neurons``. Raises NotRegistered, NotPublished,
    and what the SDK raises: see ``refusals``.
    """

    async def shown() -> Stored:
        found = axons(await (read() if read is not None else neurons(client, netuid)))
        if keypair.ss58_address not in found:
            raise NotRegistered(f"the hotkey {keypair.ss58_address} is not registered on subnet {netuid}")
        return found[keypair.ss58_address]

    if await shown() == endpoint.stored:
        return False
    await serve(client, netuid, keypair, endpoint)
    if await shown() != endpoint.stored:
        raise NotPublished("the axon was included, but the chain does not show it")
    return True


@contextmanager
def refusals(network: str, endpoint: Endpoint) -> Generator[None]:
    """Raise NotPublished where the SDK says that the chain refuses, ChainUnavailable for all else that it raises."""
    try:
        yield
    except CoremeshError:
        raise
    except (OSError, TimeoutError, bt.RpcConnectionError) as error:
        raise ChainUnavailable(f"the chain at {network} does not answer") from error
    except bt.BittensorError as error:
        raise NotPublished(
            f"the chain does not take the axon {endpoint.ip}:{endpoint.port}: {error}"
        ) from error
    except Exception as error:  # what comes of a node that says what nobody foresaw
        raise ChainUnavailable(
            f"the chain at {network} answers what nobody can read ({type(error).__name__})"
        ) from error


async def publish(
    network: str,
    fallbacks: Sequence[str],
    netuid: int,
    keypair: KeyPair,
    endpoint: Endpoint,
    *,
    deadline_s: float,
) -> bool:
    """``ensure``, once, over a connection of its own. Raises ChainUnavailable, NotPublished."""
    client = cast(Any, bt.Client(network, fallback_endpoints=list(fallbacks) or None))
    try:
        with refusals(network, endpoint):
            async with asyncio.timeout(deadline_s):
                await client.connect()
                return await ensure(client, netuid, keypair, endpoint)
    finally:
        with suppress(Exception):  # nobody needs it any more
            await asyncio.wait_for(client.close(), CLOSE_TIMEOUT_S)


async def publish_aside(
    network: str,
    fallbacks: Sequence[str],
    netuid: int,
    keypair: KeyPair,
    endpoint: Endpoint,
    *,
    deadline_s: float,
) -> bool:
    """``publish`` in a thread and an event loop of its own: the SDK decodes metadata for a long time at once, which
    would hold up all else that this loop serves. Cancelling it leaves the thread to its deadline, in nobody's way."""

    def work() -> bool:
        return asyncio.run(publish(network, fallbacks, netuid, keypair, endpoint, deadline_s=deadline_s))

    return await in_thread(work, name="axon")
