"""Publishing the metagraph: the snapshot that everybody reads, and the event that folds read."""

from __future__ import annotations

import time

import structlog

from coremesh.history import History, Lease
from coremesh.metagraph import Metagraph, difference
from coremesh.service.metrics import METAGRAPH_BLOCK
from coremesh.settings import ChainSettings
from services.weights.chain import Chain, Tick

log = structlog.get_logger(__name__)


class MetagraphSync:
    """Publishes when taking over, every so many blocks or seconds, and when somebody has registered."""

    def __init__(self, history: History, chain: Chain, settings: ChainSettings) -> None:
        self._history = history
        self._chain = chain
        self._settings = settings
        self._due_s = 0.0
        self.newest: Metagraph | None = None
        """The newest snapshot that we know of, ours or another leader's."""

    def take_over(self) -> None:
        """Begin to lead: the next step publishes."""
        self._due_s = 0.0

    async def look(self) -> Metagraph | None:
        """Read the newest published snapshot. Raises HistoryUnavailable."""
        self.newest = await self._history.metagraph()
        return self.newest

    async def step(self, lease: Lease, tick: Tick, *, announced: bool) -> None:
        """Publish when it is time. Raises ChainUnavailable, HistoryUnavailable, LeaseLost; call again.

        ``announced``: the fold knows who is in the network. Otherwise (a fold begun anew on a history whose start
        was trimmed away) everybody is announced again, which changes nothing for who is known.
        """
        if not self._due(tick):
            return
        new = await self._chain.metagraph()
        # Never from memory: the answer to an earlier publication may have been lost.
        old = await self._history.metagraph() if announced else None
        event = difference(old, new)
        await self._history.publish(new, event, lease)
        self.newest = new
        self._due_s = time.monotonic() + self._settings.sync_s
        METAGRAPH_BLOCK.set(new.block)
        if event is not None:
            log.info("metagraph changed", block=new.block, size=new.size, changes=len(event.changes))

    def _due(self, tick: Tick) -> bool:
        newest = self.newest
        if newest is None or time.monotonic() >= self._due_s:
            return True
        # A chain that lost blocks (a devnet begun anew) is another chain.
        passed = tick.block - newest.block
        return passed >= self._settings.sync_blocks or passed < 0 or registered(newest, tick)


def registered(metagraph: Metagraph, tick: Tick) -> bool:
    """Whether somebody has registered since the snapshot.

    A registration writes LastUpdate of its uid; of the others only validators, who set weights, write theirs.
    """
    if len(tick.last_update) != metagraph.size:
        return True
    return any(
        update > neuron.last_update and not neuron.permit
        for neuron, update in zip(metagraph.neurons, tick.last_update, strict=True)
    )
