"""Who may ask: callers with a genuine, fresh signature for this hotkey, and where it is wanted, with stake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coremesh.errors import ChainUnavailable, Forbidden
from coremesh.types import Hotkey
from coremesh.wire.btauth import verify
from coremesh.wire.nonces import InMemoryNonceStore


@dataclass
class Stakes:
    """Stake by hotkey in units of the subnet (alpha, and TAO as the chain converts it), as last read."""

    by_hotkey: Mapping[str, float] | None = None
    """None while the metagraph has not been read."""


@dataclass
class Gate:
    """Lets a request in, or raises.

    With ``allowed`` and no ``min_stake``: these hotkeys only. With ``min_stake`` (in the same unit): hotkeys
    with at least that much, and ``allowed`` besides. With neither: every hotkey.
    """

    hotkey: Hotkey
    stakes: Stakes
    allowed: frozenset[str] = frozenset()
    min_stake: float | None = None
    _nonces: InMemoryNonceStore = field(default_factory=InMemoryNonceStore)

    def admit(self, headers: Mapping[str, str], body: bytes, method: str, target: str) -> Hotkey:
        """The caller's hotkey. Raises BadAuth, Forbidden, ChainUnavailable or Busy; ``target`` has its query."""
        caller = verify(headers, body, method, target, self.hotkey, self._nonces)
        if caller in self.allowed:
            return caller
        if self.min_stake is None:
            if self.allowed:
                raise Forbidden(
                    "this miner answers listed validators only",
                    remedy="Ask its operator to list your hotkey with --allow.",
                )
            return caller
        if self.stakes.by_hotkey is None:
            raise ChainUnavailable(
                "this miner has not read the metagraph yet, and cannot tell your stake",
                remedy="Ask again in a minute.",
            )
        if self.stakes.by_hotkey.get(caller, 0.0) < self.min_stake:
            raise Forbidden(
                f"this miner answers validators with a stake of at least {self.min_stake:g}",
                remedy="Add stake to your hotkey on this subnet, or ask the operator to list it.",
            )
        return caller
