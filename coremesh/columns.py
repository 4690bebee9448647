"""A column of an event in few bytes, to the same bits.

Most of what a reward stack says of fifty completions says little: a mask that let all of them pass, nothing for the
miners that failed. A packed column is one byte for how it is packed, which of its values there are where that is not
known already, and these values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float32]
Places = NDArray[np.bool_]

ALL, AS_REWARDS, SOME = 0x00, 0x10, 0x20
"""Which values there are, the others being NaN: all; those of uids that have a reward; or those of a bitmap [n]."""
FLOATS, HALVES, CONSTANT, TWO, MOSTLY = range(5)
"""How the values there are follow: float32; float16, where that is exact; one for all; two, and a bitmap of the second;
or one, a bitmap of where it is another, and these."""


def pack_column(values: Column, rewarded: Places) -> bytes:
    """``values`` [n] packed. ``rewarded`` [n]: which uids have a reward."""
    there = ~np.isnan(values)
    if there.all():
        which, bitmap = ALL, b""
    elif np.array_equal(there, rewarded):
        which, bitmap = AS_REWARDS, b""
    else:
        which, bitmap = SOME, np.packbits(there).tobytes()
    how, packed = _pack(np.ascontiguousarray(values[there], "<f4"))
    return bytes((which | how,)) + bitmap + packed


def _pack(values: Column) -> tuple[int, bytes]:
    bits = values.view("<u4")
    if not (bits != bits[:1]).any():
        return CONSTANT, bits[:1].tobytes()
    distinct, counts = np.unique(bits, return_counts=True)
    common = distinct[counts.argmax()]
    others = bits != common
    room = (len(bits) + 7) // 8
    sizes = {FLOATS: 4 * len(bits), MOSTLY: 4 + room + 4 * int(others.sum())}
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if np.array_equal(halves.astype("<f4").view("<u4"), bits):
        sizes[HALVES] = 2 * len(bits)
    if len(distinct) == 2:
        sizes[TWO] = 8 + room
    how = min(sizes, key=lambda one: (sizes[one], one))
    ways: dict[int, Callable[[], bytes]] = {
        FLOATS: values.tobytes,
        HALVES: halves.tobytes,
        TWO: lambda: distinct.tobytes() + np.packbits(bits == distinct[1]).tobytes(),
        MOSTLY: lambda: common.tobytes() + np.packbits(others).tobytes() + bits[others].tobytes(),
    }
    return how, ways[how]()


def unpack_column(packed: bytes, rewards: Column) -> Column:
    """The values [n] in ``packed``, of an event whose ``rewards`` are [n]. Raises ValueError when it is no column."""
    if not packed:
        raise ValueError("an empty column")
    n, which, how, rest = len(rewards), packed[0] & 0xF0, packed[0] & 0x0F, packed[1:]
    if which == ALL:
        there: Any = None
        count = n
    elif which == AS_REWARDS:
        there = ~np.isnan(rewards)
        count = int(there.sum())
    elif which == SOME:
        there, rest = _bitmap(rest, n)
        count = int(there.sum())
    else:
        raise ValueError(f"a column packed in an unknown way ({packed[0]:#04x})")
    values = _unpack(how, rest, count)
    if there is None:
        return values
    result = np.full(n, np.nan, np.float32)
    result[there] = values
    return result


def _unpack(how: int, rest: bytes, count: int) -> Column:
    if how == FLOATS:
        values = np.frombuffer(rest, "<f4")
    elif how == HALVES:
        values = np.frombuffer(rest, "<f2").astype(np.float32)
    elif how == CONSTANT:
        values = np.repeat(np.frombuffer(rest, "<f4"), count if len(rest) == 4 else 1)
    elif how == TWO:
        pair = np.frombuffer(rest[:8], "<f4")
        second, after = _bitmap(rest[8:], count)
        if len(pair) != 2 or after:
            raise ValueError("a column that is cut short")
        values = pair[second.astype(np.intp)]
    elif how == MOSTLY:
        others, after = _bitmap(rest[4:], count)
        values = np.repeat(np.frombuffer(rest[:4], "<f4"), count)
        if len(after) != 4 * int(others.sum()):
            raise ValueError("a column that is cut short")
        values[others] = np.frombuffer(after, "<f4")
    else:
        raise ValueError(f"values packed in an unknown way ({how})")
    if len(values) != count:
        raise ValueError(f"{len(values)} values where {count} should be")
    return values


def _bitmap(packed: bytes, n: int) -> tuple[Places, bytes]:
    size = (n + 7) // 8
    if len(packed) < size:
        raise ValueError("a column that is cut short")
    places = np.unpackbits(np.frombuffer(packed[:size], np.uint8), count=n)
    return places.astype(np.bool_), packed[size:]
