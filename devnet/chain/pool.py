"""Extrinsics waiting for a block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from devnet.chain.extrinsics import Extrinsic, InvalidTransaction

MAX_WAITING = 1_024
MAX_NONCE_GAP = 32

Watcher = Callable[[Any], None]


@dataclass(slots=True)
class Waiting:
    """One pooled extrinsic, the block its era began at, and who is told of its fate."""

    extrinsic: Extrinsic
    birth: int | None
    watchers: list[Watcher] = field(default_factory=list)

    def tell(self, status: Any) -> None:
        """Pass a status on to every watcher."""
        for watcher in self.watchers:
            watcher(status)


class Pool:
    """At most `MAX_WAITING` extrinsics, one per account and nonce, taken in order of arrival and nonce."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], Waiting] = {}

    def add(self, waiting: Waiting, next_nonce: int) -> None:
        """Queue one; InvalidTransaction when it is stale, too far ahead, a double, or there is no room."""
        extrinsic = waiting.extrinsic
        if extrinsic.nonce < next_nonce:
            raise InvalidTransaction("Transaction is outdated")
        if extrinsic.nonce > next_nonce + MAX_NONCE_GAP:
            raise InvalidTransaction("Transaction will be valid in the future")
        key = (extrinsic.signer, extrinsic.nonce)
        held = self._waiting.get(key)
        if held is not None:
            same = held.extrinsic.raw == extrinsic.raw
            raise InvalidTransaction("Already imported" if same else "Priority is too low")
        if len(self._waiting) >= MAX_WAITING:
            raise InvalidTransaction("Immediately dropped: the pool is full")
        self._waiting[key] = waiting

    def next_nonce(self, account: str, stored: int) -> int:
        """The nonce after those the account has waiting in sequence."""
        while (account, stored) in self._waiting:
            stored += 1
        return stored

    def ready(self, nonce_of: Callable[[str], int]) -> Waiting | None:
        """Take out the oldest extrinsic whose nonce is its account's next; stale ones are dropped on the way."""
        for key, waiting in list(self._waiting.items()):
            expected = nonce_of(key[0])
            if key[1] < expected:
                del self._waiting[key]
                waiting.tell("invalid")
            elif key[1] == expected:
                return self._waiting.pop(key)
        return None

    def expire(self, number: int) -> None:
        """Drop what block ``number`` may not hold any more, its nonce's turn or not: eras end whatever comes before."""
        for key, waiting in list(self._waiting.items()):
            era = waiting.extrinsic.era
            if era is not None and waiting.birth is not None and number >= waiting.birth + era[0]:
                del self._waiting[key]
                waiting.tell("invalid")

    def __len__(self) -> int:
        return len(self._waiting)
