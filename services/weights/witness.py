"""Explanations as the running service gives them."""

from __future__ import annotations

import asyncio

from coremesh.contracts import Explanation, SignedExplanation
from coremesh.errors import Busy, Unavailable
from coremesh.types import stream_key
from coremesh.wire.keys import KeyPair
from services.weights.anchors import base
from services.weights.book import Page
from services.weights.compute import Vector
from services.weights.engine import Engine
from services.weights.explain import Speaker, explain
from services.weights.proof import sign

MOST_WAITING = 4


class Witness:
    """Explains the scores that an engine shows. One explanation at a time: each reads the whole history."""

    def __init__(self, engine: Engine, netuid: int, keypair: KeyPair | None) -> None:
        self._engine = engine
        self._netuid = netuid
        self._keypair = keypair
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def explain(self, uid: int, events: int, *, signed: bool) -> SignedExplanation:
        """See services.weights.explain. Raises Busy too, and Unavailable when there is nothing to sign with."""
        if signed and self._keypair is None:
            raise Unavailable("this instance has no hotkey to sign with", remedy="Ask without sign=true.")
        if self._waiting >= MOST_WAITING:
            raise Busy("other explanations are being made", retry_after_s=5.0)
        self._waiting += 1
        try:
            async with self._turn:
                found = await self._explain(uid, events)
        finally:
            self._waiting -= 1
        if not signed or self._keypair is None:
            return SignedExplanation(explanation=found)
        return sign(found, self._keypair)

    async def _explain(self, uid: int, events: int) -> Explanation:
        page, vector = self._now()
        validator = self._keypair.ss58_address if self._keypair else ""
        history = self._engine.history
        rule = self._engine.book.rule
        start = await base(history, rule)
        if start is not None and stream_key(start.place) > stream_key(page.last_id):
            start = None
        return await explain(
            history,
            page,
            rule,
            uid,
            events=events,
            base=start,
            speaker=Speaker(self._netuid, validator, vector),
        )

    def _now(self) -> tuple[Page, Vector | None]:
        metagraph = self._engine.sync.newest
        if metagraph is None:
            return self._engine.book.page, None
        proposal = self._engine.book.propose(metagraph, metagraph.block)
        return proposal.page, proposal.vector
