"""Callers that sign as hotkeys, as the original's axon took them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fastapi import Request

from coremesh.errors import Forbidden, Unavailable
from coremesh.metagraph import Metagraph
from coremesh.settings import QuerierSettings
from coremesh.types import Hotkey
from coremesh.wire.btauth import HEADER_HOTKEY, ReplayedRequest, authenticate
from coremesh.wire.nonces import SharedNonceStore
from services.querier.caller import DELEGATES, OTHERS, Caller, Priority
from services.querier.snapshot import SnapshotFollower


class Hotkeys:
    """Verifies signatures for our own hotkey and says who may ask, and how soon."""

    def __init__(
        self, settings: QuerierSettings, own: Hotkey, snapshot: SnapshotFollower, nonces: SharedNonceStore
    ) -> None:
        self._settings = settings
        self._own = own
        self._snapshot = snapshot
        self._nonces = nonces
        self._blacklist = frozenset(settings.hotkey_blacklist)
        self._ranked: Metagraph | None = None
        self._stakes: Mapping[str, float] = {}

    async def caller(self, request: Request) -> Caller:
        """Who signed ``request``. Raises BadAuth, Forbidden, Unavailable.

        While Redis is away nobody is let in this way: a replay to another replica would go unnoticed.
        """
        if self._settings.hotkey_callers == "off":
            raise Forbidden("this querier takes no signatures", remedy="Ask its operator for an API key.")
        body = await request.body()
        now = time.time_ns()
        signed = authenticate(request.headers, body, request.method, target(request), self._own, now_ns=now)
        hotkey = signed.hotkey
        if hotkey == self._own:
            raise Forbidden("a validator does not serve itself", remedy="Ask with another hotkey.")
        if hotkey in self._blacklist:
            raise Forbidden("this hotkey is on the blacklist of this querier")
        stakes = self._registered()
        if self._settings.hotkey_callers == "registered" and hotkey not in stakes:
            raise Forbidden(
                "this hotkey is not registered on the subnet",
                remedy="Register it, or ask the operator for an API key.",
            )
        # Last, so that only those who may ask can fill the store.
        if not await self._nonces.add(hotkey, signed.nonce_ns, now):
            raise ReplayedRequest("this nonce has been used before")
        stake = stakes.get(hotkey, 0.0)
        return Caller(
            id=f"hotkey:{hotkey}",
            priority=Priority(DELEGATES, stake) if stake > 0 else OTHERS,
            per_minute=self._settings.hotkey_per_minute,
            concurrent=self._settings.hotkey_concurrent,
        )

    def _registered(self) -> Mapping[str, float]:
        """Stake delegated to us by the coldkey of each registered hotkey, in TAO."""
        metagraph = self._snapshot.current
        if metagraph is None:
            if self._settings.hotkey_callers == "any":
                return {}
            raise Unavailable(
                "this querier has no metagraph yet, and cannot tell who is registered",
                remedy="Ask again in a minute.",
            )
        if metagraph is not self._ranked:
            by_coldkey: dict[str, float] = {}
            for nominator in metagraph.nominators:
                by_coldkey[nominator.coldkey] = by_coldkey.get(nominator.coldkey, 0.0) + nominator.stake
            self._stakes = {n.hotkey: by_coldkey.get(n.coldkey, 0.0) for n in metagraph.neurons}
            self._ranked = metagraph
        return self._stakes


def is_signed(request: Request) -> bool:
    """Whether a request claims to come from a hotkey."""
    return HEADER_HOTKEY in request.headers


def target(request: Request) -> str:
    """The request target as it was sent, with its query: what the signature covers."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")
