"""One ASGI app for all residents, told apart by the address that was called."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from coremesh.errors import CoremeshError, NotFound
from devnet.miners.answering import BACKWARD, FORWARD, Answering, Flaky, prompt, tardy
from devnet.miners.exchange import Exchange, Receive, Scope, Send
from devnet.miners.hostile import ATTACKS, Hostile
from devnet.miners.minds import mind_of
from devnet.roster import Resident

Behaviour = Callable[[Exchange], Awaitable[None]]
Address = tuple[str, int]

DEAD = "dead"
"""The character whose axon is published and who never listens."""


def behaviour_of(resident: Resident, hotkey: str, seed: int) -> Behaviour:
    """How a resident behaves; ``hotkey`` is its address on the chain, for which requests must be signed."""
    rng = random.Random(f"{seed}:{resident.name}:behaviour")
    if resident.character in ATTACKS:
        return Hostile(ATTACKS[resident.character], rng)
    mind = mind_of(resident, seed)
    if resident.character == "flaky":
        return Flaky(hotkey, mind, prompt, rng)
    return Answering(hotkey, mind, tardy if resident.character == "slow" else prompt, rng)


def behaviours(
    residents: Sequence[Resident], hotkeys: Mapping[str, str], seed: int
) -> dict[Address, Behaviour]:
    """The behaviours of all ``residents`` that listen, by their address; ``hotkeys`` by name."""
    return {
        (one.host, one.port): behaviour_of(one, hotkeys[one.name], seed)
        for one in residents
        if one.character != DEAD
    }


class Street:
    """The ASGI app: every address a door with one resident behind it."""

    def __init__(self, doors: Mapping[Address, Behaviour]) -> None:
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        path = exchange.target.partition("?")[0]
        try:
            if exchange.method == "POST" and path in (FORWARD, BACKWARD):
                await self._doors[tuple(scope["server"])](exchange)
            elif exchange.method == "GET" and path == "/healthz":
                await exchange.reply_json(200, {"status": "alive"})
            else:
                raise NotFound("there is no such path here", remedy="POST /forward or /backward.")
        except CoremeshError as error:
            await exchange.reply_json(error.status, error.as_dict())
        except ConnectionResetError:
            return
