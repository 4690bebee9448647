"""Which hotkeys the history must go on knowing, and forgetting the others now and then."""

from __future__ import annotations

import time

import structlog

from coremesh.history import History
from coremesh.metagraph import Metagraph
from coremesh.types import hotkey_digest
from services.weights.state import ScoreState

log = structlog.get_logger(__name__)

EVERY_S = 24 * 3600.0


class Forgetter:
    """Forgets hotkeys that nothing needs, once in ``every_s`` and first when it is first asked."""

    def __init__(self, history: History, *, every_s: float = EVERY_S) -> None:
        self._history = history
        self._every_s = every_s
        self._next_s = 0.0

    async def step(self, state: ScoreState, metagraph: Metagraph | None) -> int:
        """Forget if it is time. Gives the number forgotten. Raises HistoryUnavailable: then it is tried again."""
        if metagraph is None or not state.size:  # what is needed is not known yet
            return 0
        if (now := time.monotonic()) < self._next_s:
            return 0
        forgotten = await self._history.forget_hotkeys(needed(state, metagraph))
        self._next_s = now + self._every_s
        if forgotten:
            log.info("hotkeys forgotten that no event has any more", hotkeys=forgotten)
        return forgotten


def needed(state: ScoreState, metagraph: Metagraph | None) -> set[int]:
    """Digests of the hotkeys that are registered, scored, or remembered as a uid's former ones."""
    found = {int(digest) for digest in state.digests}
    found.update(digest for former in state.retired.values() for digest in former)
    if metagraph is not None:
        found.update(hotkey_digest(hotkey) for hotkey in metagraph.hotkeys if hotkey)
    return found - {0}
