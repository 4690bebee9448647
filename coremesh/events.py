"""What happened: the two kinds of event in the history, and their wire form.

An event is msgpack (msgspec, ``array_like``, tagged, versioned); its arrays are packed little-endian bytes, so
that an event of 50 uids takes less than 2 KB and folds read columns without a copy. What reward functions and masks
said is packed closer (coremesh/columns.py). New fields are appended with a default, so old events stay readable.
"""

from __future__ import annotations

from contextlib import suppress
from enum import IntFlag
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from coremesh.columns import pack_column, unpack_column
from coremesh.types import DigestArray, EventId, hotkey_digests


class Flag(IntFlag):
    """What an event counts for."""

    NONE = 0
    TRAIN_GATING = 1
    """The gating fold learns from it."""
    TRAIN_NETWORK = 2
    """Rewards were sent back to the miners."""
    SCORED = 4
    """The score fold counts it: it has at least one success with a finite reward."""
    RANDOM_SAMPLE = 8
    """The uids were drawn at random."""
    PRIVATE = 16
    """Its texts were left out at the caller's wish."""


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One turn of a conversation."""

    role: Annotated[str, msgspec.Meta(max_length=32)]
    content: str


class ForwardEvent(msgspec.Struct, frozen=True, array_like=True, tag=1, kw_only=True, gc=False):
    """One query of the network, appended once, when it is over. Arrays are aligned with ``uids``.

    ``rewards`` is NaN where a miner did not succeed or was not scored; ``parts`` holds, for each reward function
    or mask, its value per uid (NaN likewise). ``best`` is an index into ``uids``, -1 for none. Older events have their
    parts in ``parts_`` as float32 [n], others in ``columns_``; a ``propensity_`` of one value stands for all uids.
    """

    id: str
    time_ms: int
    block: int
    kind: str
    flags: int
    messages: tuple[Message, ...]
    uids_: bytes
    hotkeys_: bytes
    status_: bytes
    latency_: bytes
    rewards_: bytes
    parts_: dict[str, bytes] = {}
    gating_: bytes = b""
    best: int = -1
    head_version: int = 0
    stack_version: str = ""
    stats_version: int = 0
    degraded: tuple[str, ...] = ()
    available: int = 0
    """How many uids could have been asked: with RANDOM_SAMPLE, len(uids) / available is the propensity."""
    version: int = 1
    propensity_: bytes = b""
    trace_: bytes = b""
    columns_: dict[str, bytes] = {}

    @property
    def trace(self) -> str:
        """The trace of this query (32 hex digits, as OpenTelemetry shows it), empty where none was taken."""
        return self.trace_.hex()

    @property
    def flag_names(self) -> tuple[str, ...]:
        """What it counts for, in words."""
        return tuple(flag.name.lower() for flag in Flag if flag.name and self.flags & flag)

    @property
    def uids(self) -> NDArray[np.uint16]:
        """The queried uids, uint16 [n]."""
        return np.frombuffer(self.uids_, dtype="<u2")

    @property
    def hotkeys(self) -> DigestArray:
        """Digests of the queried hotkeys, uint64 [n]."""
        return np.frombuffer(self.hotkeys_, dtype="<u8")

    @property
    def status(self) -> NDArray[np.uint8]:
        """coremesh.wire.status.Status per uid, uint8 [n]."""
        return np.frombuffer(self.status_, dtype="u1")

    @property
    def latency_s(self) -> NDArray[np.float32]:
        """Seconds from each request's own send, float32 [n]."""
        return np.frombuffer(self.latency_, dtype="<f4")

    @property
    def rewards(self) -> NDArray[np.float32]:
        """Final rewards, float32 [n], NaN where there is none."""
        return np.frombuffer(self.rewards_, dtype="<f4")

    @property
    def gating(self) -> NDArray[np.float32]:
        """Gating scores of the queried, float32 [n], or empty when gating was not asked."""
        return np.frombuffer(self.gating_, dtype="<f4")

    @property
    def propensity(self) -> NDArray[np.float16]:
        """How likely each uid was to be asked, float16 [n], or empty when it is not known."""
        return np.frombuffer(self.whole_propensity, dtype="<f2")

    @property
    def whole_propensity(self) -> bytes:
        """``propensity`` packed with a value for every uid."""
        return self.propensity_ * (len(self.uids_) // 2) if len(self.propensity_) == 2 else self.propensity_

    @property
    def sound(self) -> bool:
        """Whether there is a whole value for every uid in each column that is here. Of one where there is not only
        what stands for itself can be read: nothing that follows the history may stop at it for ever."""
        n = len(self.status_)
        return (
            (len(self.uids_), len(self.hotkeys_)) == (2 * n, 8 * n)
            and len(self.latency_) == len(self.rewards_) == 4 * n
            and len(self.gating_) in (0, 4 * n)
            and len(self.whole_propensity) in (0, 2 * n)
        )

    @property
    def parts(self) -> dict[str, NDArray[np.float32]]:
        """Values per reward function and mask, each float32 [n], without columns that are broken."""
        found = {
            name: np.frombuffer(packed, dtype="<f4")
            for name, packed in self.parts_.items()
            if len(packed) % 4 == 0
        }
        if self.columns_ and len(self.rewards_) % 4 == 0:
            rewards = self.rewards
            for name, packed in self.columns_.items():
                with suppress(ValueError):
                    found[name] = unpack_column(packed, rewards)
        return found

    @property
    def sound_parts(self) -> dict[str, bytes]:
        """``parts`` packed as float32 [n]."""
        return {name: values.astype("<f4").tobytes() for name, values in self.parts.items()}

    @property
    def scored(self) -> bool:
        """Whether the score fold counts it."""
        return bool(self.flags & Flag.SCORED)


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A uid whose hotkey changed; ``old`` is empty for a new uid, ``new`` for one that is gone."""

    uid: int
    old: str
    new: str


class MetagraphEvent(msgspec.Struct, frozen=True, array_like=True, tag=2, kw_only=True):
    """What changed in the metagraph, appended in the transaction that publishes the snapshot."""

    id: str
    time_ms: int
    block: int
    size: int
    changes: tuple[Change, ...]
    permits_: bytes = b""
    excluded_: bytes = b""
    version: int = 1

    @property
    def permits(self) -> NDArray[np.uint16]:
        """All uids with a validator permit, uint16 [m]."""
        return np.frombuffer(self.permits_, dtype="<u2")

    @property
    def excluded(self) -> NDArray[np.uint16]:
        """All uids with a permit and stake over the limit, uint16 [m]: validators, scored 0."""
        return np.frombuffer(self.excluded_, dtype="<u2")


Event = ForwardEvent | MetagraphEvent


class ScoredEvent(msgspec.Struct, frozen=True, array_like=True, tag=1, kw_only=True, gc=False):
    """A ForwardEvent as far as the score fold reads it: the first fields of its wire form, the others left packed.

    Decoding it costs a fifth of decoding the whole.
    """

    id: msgspec.Raw
    time_ms: int
    block: int
    kind: msgspec.Raw
    flags: int
    messages: msgspec.Raw
    uids_: bytes
    hotkeys_: bytes
    status_: msgspec.Raw
    latency_: msgspec.Raw
    rewards_: bytes


class Transcript(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The bulky texts of an event: completions aligned with its uids, empty where there is none."""

    id: str
    completions: tuple[str, ...]
    version: int = 1


class _Identified(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What events of all kinds begin with."""

    kind: int
    id: str


_event_encoder = msgspec.msgpack.Encoder()
_event_decoder = msgspec.msgpack.Decoder(Event)
_scored_decoder = msgspec.msgpack.Decoder(ScoredEvent | MetagraphEvent)
_id_decoder = msgspec.msgpack.Decoder(_Identified)
_transcript_decoder = msgspec.msgpack.Decoder(Transcript)


def encode(event: Event | Transcript) -> bytes:
    """The event as msgpack."""
    return _event_encoder.encode(event)


def decode(packed: bytes) -> Event:
    """The event in ``packed``. Raises msgspec.DecodeError or ValidationError when it is not one."""
    return _event_decoder.decode(packed)


def decode_scored(packed: bytes) -> ScoredEvent | MetagraphEvent:
    """The event in ``packed`` for the score fold. Raises msgspec.DecodeError or ValidationError when it is not one."""
    return _scored_decoder.decode(packed)


def decode_id(packed: bytes) -> str:
    """The id of the event in ``packed``. Raises msgspec.DecodeError or ValidationError when it is not one."""
    return _id_decoder.decode(packed).id


def decode_transcript(packed: bytes) -> Transcript:
    """The transcript in ``packed``. Raises msgspec.DecodeError or ValidationError when it is not one."""
    return _transcript_decoder.decode(packed)


def pack(values: Any, dtype: str) -> bytes:
    """``values`` as little-endian bytes of ``dtype`` (``<u2``, ``<u8``, ``u1``, ``<f4``)."""
    return np.ascontiguousarray(values, dtype=np.dtype(dtype)).tobytes()


def pack_propensity(values: Any) -> bytes:
    """Propensities [n] as float16, one for all where they are alike."""
    packed = pack(values, "<f2")
    return packed[:2] if packed == packed[:2] * (len(packed) // 2) else packed


def forward_event(
    *,
    id: EventId,
    time_ms: int,
    block: int,
    kind: str,
    flags: Flag,
    messages: tuple[Message, ...],
    uids: Any,
    hotkeys: list[str],
    status: Any,
    latency_s: Any,
    rewards: Any,
    parts: dict[str, Any] | None = None,
    gating: Any = (),
    best: int = -1,
    head_version: int = 0,
    stack_version: str = "",
    stats_version: int = 0,
    degraded: tuple[str, ...] = (),
    available: int = 0,
    propensity: Any = (),
    trace: str = "",
) -> ForwardEvent:
    """Build an event from arrays [n] aligned with ``uids``. Raises ValueError when lengths differ.

    ``parts`` and ``rewards`` take NaN for uids that were not scored; ``gating`` and ``propensity`` are empty or [n].
    ``trace`` is in hex.
    """
    n = len(uids)
    columns = {"hotkeys": hotkeys, "status": status, "latency_s": latency_s, "rewards": rewards}
    for name, column in {**columns, **(parts or {})}.items():
        if len(column) != n:
            raise ValueError(f"{name} has {len(column)} values for {n} uids")
    for name, column in (("gating", gating), ("propensity", propensity)):
        if len(column) not in (0, n):
            raise ValueError(f"{name} has {len(column)} values for {n} uids")
    rewarded = ~np.isnan(np.asarray(rewards, dtype=np.float32))
    return ForwardEvent(
        id=id,
        time_ms=time_ms,
        block=block,
        kind=kind,
        flags=int(flags),
        messages=messages,
        uids_=pack(uids, "<u2"),
        hotkeys_=pack(hotkey_digests(hotkeys), "<u8"),
        status_=pack(status, "u1"),
        latency_=pack(latency_s, "<f4"),
        rewards_=pack(rewards, "<f4"),
        gating_=pack(gating, "<f4"),
        best=best,
        head_version=head_version,
        stack_version=stack_version,
        stats_version=stats_version,
        degraded=degraded,
        available=available,
        propensity_=pack_propensity(propensity),
        trace_=bytes.fromhex(trace),
        columns_={
            name: pack_column(np.asarray(column, dtype=np.float32), rewarded)
            for name, column in (parts or {}).items()
        },
    )
