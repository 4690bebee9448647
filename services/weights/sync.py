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

BEHIND_S = 12.0
"""How often a node that is behind what was published is read again: as often as blocks come."""


class MetagraphSync:
    """Publishes when taking over, every so many blocks or seconds, and when somebody has registered."""

    def __init__(self, history: History, chain: Chain, settings: ChainSettings) -> None:
        self._history = history
        self._chain = chain
        self._settings = settings
        self._due_s = 0.0
        self._behind_until_s = 0.0
        self._seen: tuple[int, dict[int, int]] = (0, {})
        """The block of a snapshot, and updates of uids that turned out not to be registrations since."""
        self.newest: Metagraph | None = None
        """The newest snapshot that we know of, ours or another leader's."""

    def take_over(self) -> None:
        """Begin to lead: the next step publishes."""
        self._due_s = self._behind_until_s = 0.0

    async def look(self) -> Metagraph | None:
        """Read the newest published snapshot. Raises HistoryUnavailable."""
        self.newest = await self._history.metagraph()
        return self.newest

    async def step(self, lease: Lease, tick: Tick, *, announced: bool) -> None:
        """Publish when it is time. Raises ChainUnavailable, HistoryUnavailable, LeaseLost; call again.

        ``announced``: the fold knows who is in the network. Otherwise (a fold begun anew on a history whose start
        was trimmed away) everybody is announced again, which changes nothing for who is known.

        What a node shows that is behind the published snapshot is not published: a uid registered in between would
        go back to whom it belonged to, and be begun anew again once the node has caught up.
        """
        if time.monotonic() < self._behind_until_s or not await self._due(tick):
            return
        new = await self._chain.metagraph()
        # Never from memory: the answer to an earlier publication may have been lost.
        old = await self._history.metagraph()
        if old is not None and new.is_behind(old):
            log.warning(
                "the chain's node is behind the published metagraph", block=new.block, published=old.block
            )
            self.newest = old
            self._behind_until_s = time.monotonic() + BEHIND_S
            return
        event = difference(old if announced else None, new)
        await self._history.publish(new, event, lease)
        self.newest = new
        self._due_s = time.monotonic() + self._settings.sync_s
        METAGRAPH_BLOCK.set(new.block)
        if event is not None:
            log.info("metagraph changed", block=new.block, size=new.size, changes=len(event.changes))

    async def _due(self, tick: Tick) -> bool:
        newest = self.newest
        if newest is None or time.monotonic() >= self._due_s:
            return True
        # Fewer blocks: another chain (a devnet begun anew), or a node that is behind. The metagraph tells which.
        passed = tick.block - newest.block
        return passed >= self._settings.sync_blocks or passed < 0 or await self._registered(newest, tick)

    async def _registered(self, newest: Metagraph, tick: Tick) -> bool:
        """Whether somebody has registered since the snapshot.

        A registration writes LastUpdate of its uid, and so do weights: the hotkey tells the one from the other.
        """
        if len(tick.last_update) != newest.size:
            return True
        if self._seen[0] != newest.block:
            self._seen = (newest.block, {})
        seen = self._seen[1]
        moved = [
            neuron
            for neuron, update in zip(newest.neurons, tick.last_update, strict=True)
            if update > seen.get(neuron.uid, neuron.last_update)
        ]
        if not moved:
            return False
        holders = await self._chain.hotkeys_of(tuple(neuron.uid for neuron in moved))
        if holders != tuple(neuron.hotkey for neuron in moved):
            return True
        seen.update({neuron.uid: tick.last_update[neuron.uid] for neuron in moved})
        return False
