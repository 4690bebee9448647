"""Publishing where a hotkey listens: what ``ServeAxon`` writes on the chain and others read there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, cast

import bittensor as bt

from coremesh.errors import ChainUnavailable, CoremeshError
from coremesh.wire.keys import KeyPair

CLOSE_TIMEOUT_S = 2.0


class NotPublished(CoremeshError):
    """The chain answers, but does not take the axon."""

    code = "axon_not_published"
    default_remedy = "Check the axon's address and that this hotkey is registered on the subnet."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a hotkey listens, for others."""

    ip: str
    port: int

    @property
    def stored(self) -> tuple[int, int]:
        """As the chain stores it: (the address as a number, port)."""
        return int(ip_address(self.ip)), self.port


async def served(client: Any, netuid: int, hotkey: str) -> tuple[int, int] | None:
    """A hotkey's axon as the chain shows it, zeros for none; None when the hotkey has no uid. Has no deadline."""
    for neuron in await client.read("neurons", netuid=netuid, lite=True):
        if neuron.hotkey == hotkey:
            axon = neuron.raw["axon_info"]
            return int(axon["ip"]), int(axon["port"])
    return None


async def publish(
    network: str,
    fallbacks: Sequence[str],
    netuid: int,
    keypair: KeyPair,
    endpoint: Endpoint,
    *,
    deadline_s: float,
) -> bool:
    """Publish ``endpoint`` unless the chain shows it already; whether it had to be written.

    One attempt, over a connection of its own. Returns when a read of the chain shows it. Raises ChainUnavailable when
    the chain does not answer, NotPublished when it does and refuses.
    """
    client = cast(Any, bt.Client(network, fallback_endpoints=list(fallbacks) or None))
    try:
        async with asyncio.timeout(deadline_s):
            await client.connect()
            found = await served(client, netuid, keypair.ss58_address)
            if found == endpoint.stored:
                return False
            if found is None:
                raise NotPublished(f"the hotkey {keypair.ss58_address} has no uid on subnet {netuid}")
            version = ip_address(endpoint.ip).version
            intent = bt.ServeAxon(netuid=netuid, ip=endpoint.ip, port=endpoint.port, protocol=version)
            result = await client.execute(intent, keypair)
            result.raise_for_failure()
            if await served(client, netuid, keypair.ss58_address) != endpoint.stored:
                raise NotPublished("the axon was included, but the chain does not show it")
            return True
    except (OSError, TimeoutError, bt.RpcConnectionError) as error:
        raise ChainUnavailable(
            f"the chain at {network} did not take the axon ({type(error).__name__})"
        ) from error
    except bt.BittensorError as error:
        raise NotPublished(
            f"the chain does not take the axon {endpoint.ip}:{endpoint.port}: {error}"
        ) from error
    finally:
        with suppress(OSError, TimeoutError, bt.BittensorError):
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
    loop = asyncio.get_running_loop()
    told: asyncio.Future[bool] = loop.create_future()

    def tell(result: bool | BaseException) -> None:
        if told.done():
            return
        if isinstance(result, BaseException):
            told.set_exception(result)
        else:
            told.set_result(result)

    def work() -> None:
        result: bool | BaseException
        try:
            result = asyncio.run(
                publish(network, fallbacks, netuid, keypair, endpoint, deadline_s=deadline_s)
            )
        except BaseException as error:
            result = error
        with suppress(RuntimeError):  # the other loop may have gone
            loop.call_soon_threadsafe(tell, result)

    # A daemon: the process may end while the chain hangs.
    threading.Thread(target=work, name="axon", daemon=True).start()
    return await told
