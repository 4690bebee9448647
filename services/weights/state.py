"""Where every uid stands in the moving scores, and its wire form."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.weights.exact import Floats, Indices

Digests = NDArray[np.uint64]
LAYOUT = "scores/1"
RETIRED_KEPT = 4
"""Former hotkeys remembered per uid."""


@dataclass(slots=True)
class ScoreState:
    """Where every uid stands. Arrays are [n] in uid order."""

    moving: Floats = field(default_factory=lambda: np.zeros(0))
    digests: Digests = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Of the hotkeys scored; 0 while unknown."""
    successes: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    failures: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    excluded: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Validators over the stake limit."""
    reset_blocks: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """The block of the event at which the uid last started from 0."""
    seen: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """The number (in ``events``) of the newest scored event that counted for the uid."""
    retired: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    """Digests of the former hotkeys of a uid, newest last."""
    events: int = 0
    """Scored events folded."""
    block: int = 0
    """Of the newest metagraph event."""
    announced: int = 0
    """The size of the network in the newest metagraph event."""
    scored_ms: int = 0
    """Time of the newest scored event."""
    bound: object = field(default=None, repr=False, compare=False)
    """The kernel's own; no part of the state."""

    @property
    def size(self) -> int:
        """The number of uids."""
        return len(self.moving)

    def resize(self, size: int) -> None:
        """Forget uids from ``size`` on, or begin new ones at 0."""
        if size == self.size:
            return
        for name in ("moving", "digests", "successes", "failures", "excluded", "reset_blocks", "seen"):
            old = getattr(self, name)
            new = np.zeros(size, old.dtype)
            new[: min(size, len(old))] = old[:size]
            setattr(self, name, new)

    def reset(self, uid: int, digest: int, block: int) -> None:
        """Start a uid from 0 with a hotkey."""
        self.moving[uid] = 0.0
        self.digests[uid] = digest
        self.successes[uid] = self.failures[uid] = self.seen[uid] = 0
        self.reset_blocks[uid] = block

    def retire(self, uid: int, digest: int) -> None:
        """Remember that a hotkey no longer holds a uid."""
        if digest:
            others = tuple(d for d in self.retired.get(uid, ()) if d != digest)
            self.retired[uid] = (*others, digest)[-RETIRED_KEPT:]

    def unretire(self, uid: int, digest: int) -> None:
        """A former hotkey has come back to its uid."""
        left = tuple(d for d in self.retired.get(uid, ()) if d != digest)
        if left:
            self.retired[uid] = left
        else:
            self.retired.pop(uid, None)


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    moving: bytes
    digests: bytes
    successes: bytes
    failures: bytes
    excluded: bytes
    reset_blocks: bytes
    seen: bytes
    retired: dict[int, tuple[int, ...]]
    events: int
    block: int
    announced: int
    scored_ms: int


_packed_decoder = msgspec.msgpack.Decoder(_Packed)


def dump(state: ScoreState) -> bytes:
    """The state as msgpack with little-endian arrays: equal states give equal bytes."""
    return msgspec.msgpack.encode(
        _Packed(
            moving=state.moving.astype("<f8").tobytes(),
            digests=state.digests.astype("<u8").tobytes(),
            successes=state.successes.astype("<u4").tobytes(),
            failures=state.failures.astype("<u4").tobytes(),
            excluded=np.packbits(state.excluded).tobytes(),
            reset_blocks=state.reset_blocks.astype("<u4").tobytes(),
            seen=state.seen.astype("<u8").tobytes(),
            retired=dict(sorted(state.retired.items())),
            events=state.events,
            block=state.block,
            announced=state.announced,
            scored_ms=state.scored_ms,
        )
    )


def load(packed: bytes) -> ScoreState:
    """The state in ``packed``. Raises msgspec.DecodeError or ValidationError when it is not one."""
    p = _packed_decoder.decode(packed)
    moving = np.frombuffer(p.moving, "<f8").copy()
    excluded = np.unpackbits(np.frombuffer(p.excluded, "u1"), count=len(moving))
    return ScoreState(
        moving=moving,
        digests=np.frombuffer(p.digests, "<u8").copy(),
        successes=np.frombuffer(p.successes, "<u4").astype(np.int64),
        failures=np.frombuffer(p.failures, "<u4").astype(np.int64),
        excluded=excluded.astype(np.bool_),
        reset_blocks=np.frombuffer(p.reset_blocks, "<u4").astype(np.int64),
        seen=np.frombuffer(p.seen, "<u8").astype(np.int64),
        retired=p.retired,
        events=p.events,
        block=p.block,
        announced=p.announced,
        scored_ms=p.scored_ms,
    )
