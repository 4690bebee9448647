"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from coremesh.history.callers import CallerRecord


class Priority(NamedTuple):
    """Who goes first when requests queue: the greater. ``stake`` is TAO delegated to us."""

    rank: int
    stake: float = 0.0


OTHERS = Priority(0)
DELEGATES = 1
KEYS = Priority(2)
OPERATORS = Priority(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated caller. Limits of 0 are none; ``id`` names whom they count for."""

    id: str = ""
    priority: Priority = OTHERS
    per_minute: int = 0
    concurrent: int = 0
    scored: bool = True
    private: bool = False
    record: bytes = b""
    """The key's record as Redis had it; empty for all but ``coremesh keys``."""

    @property
    def limited(self) -> bool:
        """Whether any limit is to be counted."""
        return bool(self.record) or self.per_minute > 0 or self.concurrent > 0


ANYBODY = Caller()
STATIC = Caller(priority=KEYS)
OPERATOR = Caller(priority=OPERATORS)


def of_key(record: CallerRecord, packed: bytes) -> Caller:
    """The caller behind an API key."""
    return Caller(
        id=record.id,
        priority=KEYS,
        per_minute=record.per_minute,
        concurrent=record.concurrent,
        scored=record.scored,
        private=record.private,
        record=packed,
    )
