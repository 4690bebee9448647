"""Domain values that are more than ints and strings."""

from __future__ import annotations

import math
import os
import time
from hashlib import blake2b
from typing import NewType

import numpy as np
from numpy.typing import NDArray

Uid = NewType("Uid", int)
Hotkey = NewType("Hotkey", str)
"""An ss58 address."""
StreamId = NewType("StreamId", str)
"""A Redis stream id, ``<ms>-<n>``: the place of an event in the history."""
EventId = NewType("EventId", str)
"""A ULID of 26 characters, made by whoever observed the event."""

ORIGIN: StreamId = StreamId("0-0")
"""The place before the first event."""

DigestArray = NDArray[np.uint64]
NO_HOTKEY = np.uint64(0)

_ULID_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def hotkey_digest(hotkey: str) -> int:
    """Eight bytes that stand for a hotkey in an event (BLAKE2b-64 of the ss58 text, little-endian).

    An event of 50 uids would otherwise spend 1.6 KB on public keys. The history keeps the way back.
    """
    return int.from_bytes(blake2b(hotkey.encode(), digest_size=8).digest(), "little")


def hotkey_digests(hotkeys: list[str] | tuple[str, ...]) -> DigestArray:
    """The digests of ``hotkeys`` as uint64 [n]; an empty string gives 0."""
    return np.array([hotkey_digest(h) if h else 0 for h in hotkeys], dtype=np.uint64)


def new_event_id(now_ms: int | None = None) -> EventId:
    """A fresh ULID: 48 bits of milliseconds, 80 random bits, in Crockford's base 32."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    value = (ms & (2**48 - 1)) << 80 | int.from_bytes(os.urandom(10), "big")
    return EventId("".join(_ULID_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5)))


def event_id_ms(event_id: str) -> int:
    """Milliseconds since the epoch in a ULID. Raises ValueError when it is not one."""
    if len(event_id) != 26:
        raise ValueError(f"an event id has 26 characters, not {len(event_id)}")
    value = 0
    for character in event_id:
        value = value << 5 | _ULID_ALPHABET.index(character)
    return value >> 80


def stream_key(stream_id: str) -> tuple[int, int]:
    """A stream id as numbers that compare in history order."""
    ms, _, n = stream_id.partition("-")
    return int(ms), int(n or 0)


def finite(value: float) -> float | None:
    """A number as JSON has it: there is no NaN and no infinity."""
    number = float(value)
    return number if math.isfinite(number) else None
