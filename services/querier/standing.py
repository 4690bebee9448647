"""The miners' moving scores as the weights service last told them: whom to ask while gating is away."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from coremesh.contracts import ScoresResponse
from coremesh.errors import CoremeshError
from coremesh.mesh import Peer

FRESH_S = 30.0
TIMEOUT = timedelta(milliseconds=500)


class Standing:
    """Caches GET /scores of the weights service; an old answer is better than none."""

    def __init__(self, weights: Peer, *, fresh_s: float = FRESH_S, timeout: timedelta = TIMEOUT) -> None:
        self._weights = weights
        self._fresh_s = fresh_s
        self._timeout = timeout
        self._scores: dict[str, float] = {}
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def scores(self) -> dict[str, float]:
        """Score per hotkey, empty when the weights service never answered. Never raises."""
        async with self._asking:
            if time.monotonic() - self._asked_at < self._fresh_s:
                return self._scores
            try:
                answer = await self._weights.call("GET", "/scores", ScoresResponse, self._timeout)
            except CoremeshError:
                # Asked again soon, but not by every request of a busy second.
                self._asked_at = time.monotonic() - self._fresh_s + 1.0
                return self._scores
            self._scores = {row.hotkey: row.score for row in answer.rows if not row.excluded}
            self._asked_at = time.monotonic()
            return self._scores
