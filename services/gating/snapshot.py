"""The metagraph as gating needs it: digests, siblings, and who can be asked."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import structlog

from coremesh.errors import BadUid, HistoryUnavailable
from coremesh.history.protocol import History
from coremesh.metagraph import Metagraph, Neuron
from coremesh.types import hotkey_digests

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Roll:
    """One metagraph, in uid order: digests uint64 [n], sibling labels int64 [n] by coldkey and by network."""

    block: int
    digests: np.ndarray
    coldkeys: np.ndarray
    networks: np.ndarray
    available: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of uids."""
        return self.digests.size

    def uids(self, asked: tuple[int, ...] | None) -> np.ndarray:
        """Uids to score, int64 [m], without repeats. Raises BadUid for one that the subnet does not have."""
        if asked is None:
            return np.array(self.available, dtype=np.int64)
        if asked and (min(asked) < 0 or max(asked) >= self.size):
            uid = next(uid for uid in asked if not 0 <= uid < self.size)
            raise BadUid(f"there is no uid {uid}: the subnet has {self.size}")
        return np.array(list(dict.fromkeys(asked)), dtype=np.int64)


def roll_of(metagraph: Metagraph) -> Roll:
    """What gating needs of a metagraph."""
    return Roll(
        block=metagraph.block,
        digests=hotkey_digests(metagraph.hotkeys),
        coldkeys=_labels([neuron.coldkey for neuron in metagraph.neurons]),
        networks=_labels([_network(neuron) for neuron in metagraph.neurons]),
        available=tuple(neuron.uid for neuron in metagraph.available()),
    )


def _network(neuron: Neuron) -> str:
    """The /24 (IPv4) or /48 (IPv6) of an axon: hosts of one owner stand there side by side."""
    if not neuron.serving:
        return ""
    try:
        address = ipaddress.ip_address(neuron.ip)
    except ValueError:
        return ""
    bits = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network((address, bits), strict=False))


def _labels(names: list[str]) -> np.ndarray:
    """Equal names get equal numbers; an empty name belongs to nobody."""
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(name, len(numbers)) if name else -1 for name in names], dtype=np.int64
    )


class RollBook:
    """Keeps the newest roll. ``run`` looks for a newer metagraph now and then, for ever."""

    def __init__(self, history: History, every: timedelta = timedelta(seconds=1)) -> None:
        self._history = history
        self._every = every.total_seconds()
        self._seen: Metagraph | None = None
        self.roll: Roll | None = None

    async def look(self) -> None:
        """Take the newest metagraph. Raises HistoryUnavailable."""
        metagraph = await self._history.metagraph()
        if metagraph is not None and metagraph != self._seen:
            self._seen = metagraph
            self.roll = roll_of(metagraph)

    async def run(self) -> None:
        """Look again and again; Redis being away leaves the last roll standing."""
        while True:
            try:
                await self.look()
            except HistoryUnavailable as error:
                log.warning("history away", reason=error.message)
            await asyncio.sleep(self._every)
