"""Runtime metadata as the chain serves it: subtensor's, with one storage item and one constant of our own.

``SubtensorModule.SubnetEpochConsensus`` is younger than the metadata at hand, yet ``SetWeights`` reads it;
``Aura.SlotDuration`` is where clients learn the block time. Both are spliced into the SCALE bytes: a vector
grows by rewriting its compact count and inserting the element.
"""

from __future__ import annotations

import lzma
from importlib.resources import files

SPEC_VERSION = 461
TRANSACTION_VERSION = 1

NETUID_TYPE = 41
U64_TYPE = 7
I64_TYPE = 198
_MAGIC = b"meta\x0f"


def compact(value: int) -> bytes:
    """SCALE compact encoding of ``0 <= value < 2**30``."""
    if value < 1 << 6:
        return bytes([value << 2])
    if value < 1 << 14:
        return (value << 2 | 1).to_bytes(2, "little")
    if value < 1 << 30:
        return (value << 2 | 2).to_bytes(4, "little")
    raise ValueError(f"{value} needs the big-integer mode, which metadata never uses")


def read_compact(data: bytes, offset: int) -> tuple[int, int]:
    """The compact at ``offset`` and the offset after it; ValueError past the end or in big-integer mode."""
    if offset >= len(data):
        raise ValueError("the data ends where a compact integer should start")
    mode = data[offset] & 3
    if mode == 3:
        raise ValueError("big-integer compacts are not accepted here")
    size = 1 << mode
    chunk = data[offset : offset + size]
    if len(chunk) < size:
        raise ValueError("the data ends inside a compact integer")
    return int.from_bytes(chunk, "little") >> 2, offset + size


def text(value: str) -> bytes:
    """A SCALE string."""
    raw = value.encode()
    return compact(len(raw)) + raw


def build(slot_duration_ms: int) -> bytes:
    """The metadata (``meta`` magic first) with ``Aura.SlotDuration`` set; a negative one is typed ``i64``."""
    packed = files("devnet.chain").joinpath("data/metadata-v15-461.scale.xz").read_bytes()
    data = lzma.decompress(packed)
    if not data.startswith(_MAGIC):
        raise ValueError("the metadata file is not V15 metadata")
    data, consensus_type = _append_type(data, _consensus_enum())
    data = _insert_storage(data, consensus_type)
    return _set_slot_duration(data, slot_duration_ms)


def _consensus_enum() -> bytes:
    no_fields, no_docs, no_parameters, is_variant = b"\x00", b"\x00", b"\x00", b"\x01"
    path = compact(2) + text("devnet") + text("EpochConsensus")
    names = ("Yuma", "Null")
    variants = [text(name) + no_fields + bytes([index]) + no_docs for index, name in enumerate(names)]
    return path + no_parameters + is_variant + compact(len(names)) + b"".join(variants) + no_docs


def _append_type(data: bytes, definition: bytes) -> tuple[bytes, int]:
    """Append a portable type; the registry is the first vector after the magic, its end found by name."""
    count, start = read_compact(data, len(_MAGIC))
    # The pallets follow the registry: a one-byte compact count, then the first pallet, System.
    pallets = data.index(text("System") + b"\x01" + text("System"), start)
    boundary = pallets - 1
    if data[boundary] & 3:
        raise ValueError("the pallet count before System is not a one-byte compact")
    head = _MAGIC + compact(count + 1)
    return head + data[start:boundary] + compact(count) + definition + data[boundary:], count


def _insert_storage(data: bytes, value_type: int) -> bytes:
    marker = text("SubtensorModule") + b"\x01" + text("SubtensorModule")
    at = data.index(marker) + len(marker)
    count, rest = read_compact(data, at)
    modifier_default, map_entry, identity = b"\x01", b"\x01", b"\x04\x06"
    entry = (
        text("SubnetEpochConsensus")
        + modifier_default
        + map_entry
        + identity
        + compact(NETUID_TYPE)
        + compact(value_type)
        + compact(1)
        + b"\x00"
        + b"\x00"
    )
    return data[:at] + compact(count + 1) + entry + data[rest:]


def _set_slot_duration(data: bytes, milliseconds: int) -> bytes:
    name = text("SlotDuration") + compact(U64_TYPE) + compact(8)
    at = data.index(name)
    type_id = compact(U64_TYPE if milliseconds >= 0 else I64_TYPE)
    raw = milliseconds.to_bytes(8, "little", signed=milliseconds < 0)
    constant = text("SlotDuration") + type_id + compact(8) + raw
    return data[:at] + constant + data[at + len(name) + 8 :]
