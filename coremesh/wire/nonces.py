"""Each (hotkey, nonce) is accepted once."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Protocol

from coremesh.errors import Busy

NS = 1_000_000_000


class NonceStore(Protocol):
    """Remembers accepted nonces of one process."""

    def add(self, hotkey: str, nonce_ns: int, now_ns: int) -> bool:
        """Record the pair; True when it is new. Called only after the signature has been verified."""
        ...


class SharedNonceStore(Protocol):
    """The same for several processes behind one address (for example Redis SET NX EX)."""

    async def add(self, hotkey: str, nonce_ns: int, now_ns: int) -> bool:
        """Record the pair; True when it is new."""
        ...


class _Seen:
    """The nonces of one hotkey: a set, a heap that gives the smallest, and a floor."""

    __slots__ = ("floor_ns", "heap", "nonces", "touched_ns")

    def __init__(self) -> None:
        self.nonces: set[int] = set()
        self.heap: list[int] = []
        self.floor_ns = 0
        self.touched_ns = 0


class InMemoryNonceStore:
    """A bounded NonceStore.

    A nonce is a time, so a full set forgets its *smallest* nonce and refuses all up to it from then on:
    memory is bounded and nothing is ever accepted twice. The bound is per hotkey, so nobody can crowd
    out another. With ``max_hotkeys`` senders inside the window a new sender gets Busy.
    """

    def __init__(
        self, *, retention_s: float = 15.0, max_per_hotkey: int = 4096, max_hotkeys: int = 4096
    ) -> None:
        """``retention_s`` must be longer than the verifier's window, back and ahead together."""
        self.retention_s = retention_s
        self._retention_ns = int(retention_s * NS)
        self._max_per_hotkey = max_per_hotkey
        self._max_hotkeys = max_hotkeys
        self._by_hotkey: OrderedDict[str, _Seen] = OrderedDict()

    def __len__(self) -> int:
        """How many nonces are remembered."""
        return sum(len(seen.nonces) for seen in self._by_hotkey.values())

    def add(self, hotkey: str, nonce_ns: int, now_ns: int) -> bool:
        """True when (hotkey, nonce) is new; raises Busy when too many hotkeys are active."""
        seen = self._by_hotkey.get(hotkey)
        if seen is None:
            self._make_room(now_ns)
            seen = self._by_hotkey[hotkey] = _Seen()
        else:
            self._by_hotkey.move_to_end(hotkey)
        seen.touched_ns = now_ns
        oldest = now_ns - self._retention_ns
        while seen.heap and seen.heap[0] < oldest:
            seen.nonces.discard(heapq.heappop(seen.heap))
        if nonce_ns <= seen.floor_ns or nonce_ns in seen.nonces:
            return False
        seen.nonces.add(nonce_ns)
        heapq.heappush(seen.heap, nonce_ns)
        if len(seen.heap) > self._max_per_hotkey:
            seen.floor_ns = heapq.heappop(seen.heap)
            seen.nonces.discard(seen.floor_ns)
        return True

    def _make_room(self, now_ns: int) -> None:
        """Forget hotkeys that have been silent for longer than the window; they come oldest first."""
        # A nonce may lie ahead of the clock: one more retention keeps it refused until it is stale.
        limit = now_ns - 2 * self._retention_ns
        while self._by_hotkey:
            hotkey, seen = next(iter(self._by_hotkey.items()))
            if seen.touched_ns >= limit:
                break
            del self._by_hotkey[hotkey]
        if len(self._by_hotkey) >= self._max_hotkeys:
            raise Busy(
                f"{self._max_hotkeys} different hotkeys have called within {self.retention_s:g} s",
                retry_after_s=self.retention_s,
            )
