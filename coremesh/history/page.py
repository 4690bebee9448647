"""Many events as the store sent them: packed, one after the other in one piece of memory.

A fold that has its own way to read packed events takes them from a page, a piece of it at a time while it is in the
processor's cache, without an object for each.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from coremesh import compiled
from coremesh.history.protocol import Entry
from coremesh.types import ORIGIN, StreamId

ROOM = 1 << 20
"""Bytes that a page begins with."""
LEAST_SPACE = 1 << 17
"""Less than this is not worth asking a socket for."""
PIECE = ROOM >> 1
"""Bytes of events that are worth taking from a page at once: half of a common core's own cache."""
LONGEST_ID = 64

_frames = compiled.load(
    Path(__file__).parent,
    "_frames",
    version=5,
    functions=("coremesh_frames", "coremesh_forget", "coremesh_receive"),
)
_DONE, _FULL, _CLOSED, _LATE, _SOME, _ODD = 1, 2, 3, 4, 5, -1


class _Page(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("room", ctypes.c_int64),
        ("filled", ctypes.c_int64),
        ("spans", ctypes.c_void_p),
        ("most", ctypes.c_int64),
        ("at", ctypes.c_int64),
        ("wanted", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("before", ctypes.c_int64),
        ("take", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("last", ctypes.c_uint8 * LONGEST_ID),
        ("last_size", ctypes.c_int64),
    )


class Taker(Protocol):
    """Compiled code that takes events out of a page while a reply comes, where it can: what it leaves, and whatever
    follows that in the page, is for Python."""

    function: int
    """The address of ``int64_t take(void *context, const uint8_t *data, const int64_t (*spans)[4], int64_t count)``,
    which gives back how many events it took, from the front."""
    context: int
    """The address of what it is given first."""


class Page:
    """Room for the events of one request, ``most`` at most, and what lies in it now (History.sweep)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.spans: NDArray[np.int64] = np.zeros((most, 4), np.int64)
        """[most, 4]: where in ``data`` the id of each entry begins and ends, and its event."""
        self._room: NDArray[np.uint8] = np.empty(ROOM, np.uint8)
        self._page = _Page(spans=self.spans.ctypes.data, most=most)
        self._taker: Taker | None = None
        self.clear()

    @property
    def count(self) -> int:
        """Events in the page."""
        return int(self._page.count)

    @property
    def first(self) -> int:
        """The first event in the page that no taker had."""
        return int(self._page.first)

    @property
    def come(self) -> int:
        """Events that came since ``clear`` or ``forget``: those in the page, and those that a taker had before."""
        return int(self._page.before + self._page.count)

    @property
    def taker(self) -> Taker | None:
        """What events are given to as they come. It is kept until another, or none, is set."""
        return self._taker

    @taker.setter
    def taker(self, taker: Taker | None) -> None:
        self._taker = taker
        self._page.take = taker.function if taker else None
        self._page.context = taker.context if taker else None

    @property
    def address(self) -> int:
        """Of the memory that ``spans`` point into. Holds until more is put into the page."""
        return int(self._page.data)

    @property
    def spans_address(self) -> int:
        """Of ``spans``."""
        return int(self._page.spans)

    @property
    def last(self) -> StreamId:
        """The place of the last event that came, ORIGIN when none did."""
        if self.count:
            return self._id(self.count - 1)
        size = int(self._page.last_size)
        return cast(StreamId, bytes(self._page.last[:size]).decode()) if size else ORIGIN

    def entries(self, decode: Callable[[bytes], Any], start: int, until: int) -> list[Entry]:
        """Entries ``start`` to ``until``, decoded. Raises what ``decode`` does."""
        found: list[Entry] = []
        for i in range(start, until):
            _, _, first, end = self.spans[i].tolist()
            found.append(Entry(self._id(i), decode(self._room[first:end].tobytes())))
        return found

    def _id(self, i: int) -> StreamId:
        first, end, _, _ = self.spans[i].tolist()
        return cast(StreamId, self._room[first:end].tobytes().decode())

    # -- filling, for what reads a store --------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget what is in the page."""
        page = self._page
        page.data, page.room = self._room.ctypes.data, len(self._room)
        page.filled = page.at = page.count = page.first = page.before = page.last_size = 0
        page.wanted = -1

    def receive(self, socket: int, wait_s: float | None) -> bool:
        """Take a reply from a socket (its descriptor) that does not block, waiting at most ``wait_s`` for every packet:
        as much of it as the taker takes, a piece of it, or its end; whether that was the end. Raises OddReply,
        TimeoutError, and OSError where the connection ends: what had come is in the page even so."""
        if _frames is None:
            raise OddReply("nothing here frames replies")
        wait_ms = -1 if wait_s is None else max(1, int(wait_s * 1000))
        while True:
            found = _frames.coremesh_receive(
                ctypes.byref(self._page),
                ctypes.c_int64(socket),
                ctypes.c_int64(wait_ms),
                ctypes.c_int64(PIECE),
            )
            if found in (_DONE, _SOME):
                return found == _DONE
            if found == _FULL:
                self.space()
            elif found == _LATE:
                raise TimeoutError("no more of a reply came in time")
            elif found == _ODD:
                raise OddReply("a reply that is no page of events")
            else:
                why = "closed" if found == _CLOSED else os.strerror(ctypes.get_errno())
                raise ConnectionError(f"the connection ended within a reply: {why}")

    def forget(self) -> None:
        """Forget the events in the page, but not what has come of the next one: the rest of the reply follows."""
        if _frames is not None:
            _frames.coremesh_forget(ctypes.byref(self._page))
        self._page.before = 0

    @property
    def has_piece(self) -> bool:
        """Whether there is enough in the page to be taken."""
        return self._page.at >= PIECE

    def space(self) -> memoryview:
        """Where the next bytes of the reply go."""
        filled = int(self._page.filled)
        if len(self._room) - filled < LEAST_SPACE:
            self._room = np.concatenate((self._room, np.empty_like(self._room)))
            self._page.data, self._page.room = self._room.ctypes.data, len(self._room)
        return self._room.data[filled:]

    def take(self, received: int) -> bool:
        """Frame the next ``received`` bytes, which were put into ``space``; whether the reply is complete. Raises
        OddReply."""
        self._page.filled += received
        if _frames is None:
            raise OddReply("nothing here frames replies")
        found = _frames.coremesh_frames(ctypes.byref(self._page))
        if found == _ODD:
            raise OddReply("a reply that is no page of events")
        return found == _DONE


class OddReply(Exception):
    """A reply that is to be read the ordinary way."""


def has_pages() -> bool:
    """Whether pages can be filled here: what frames replies was compiled."""
    return _frames is not None
