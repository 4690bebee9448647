"""Many events as the store sent them: packed, one after the other in one piece of memory.

A fold that has its own way to read packed events takes a page of them without an object for each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coremesh import compiled
from coremesh.history.protocol import Entry
from coremesh.types import ORIGIN, StreamId

ROOM = 1 << 20
"""Bytes that a page begins with."""
LEAST_SPACE = 1 << 17
"""Less than this is not worth asking a socket for."""

_frames = compiled.load(Path(__file__).parent, "_frames", version=1, functions=("coremesh_frames",))


class _Progress(ctypes.Structure):
    _fields_ = (("at", ctypes.c_int64), ("wanted", ctypes.c_int64), ("count", ctypes.c_int64))


class Page:
    """Room for up to ``most`` events, to be filled again and again (History.fill), and what lies in it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.spans: NDArray[np.int64] = np.zeros((most, 4), np.int64)
        """[most, 4]: where in ``data`` the id of each entry begins and ends, and its event."""
        self._room: NDArray[np.uint8] = np.empty(ROOM, np.uint8)
        self._filled = 0
        self._progress = _Progress(0, -1, 0)

    @property
    def count(self) -> int:
        """Events in the page."""
        return self._progress.count

    @property
    def data(self) -> NDArray[np.uint8]:
        """The memory that ``spans`` point into. Holds until the page is filled again."""
        return self._room

    @property
    def last(self) -> StreamId:
        """The place of the last event, ORIGIN when there is none."""
        return self._id(self.count - 1) if self.count else ORIGIN

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
        self._filled = 0
        self._progress = _Progress(0, -1, 0)

    def space(self) -> memoryview:
        """Where the next bytes of the reply go."""
        if len(self._room) - self._filled < LEAST_SPACE:
            self._room = np.concatenate((self._room, np.empty_like(self._room)))
        return self._room.data[self._filled :]

    def take(self, received: int) -> bool:
        """Frame the next ``received`` bytes of the reply; whether it is complete. Raises OddReply."""
        self._filled += received
        if _frames is None:
            raise OddReply("nothing here frames replies")
        done = _frames.coremesh_frames(
            ctypes.c_void_p(self._room.ctypes.data),
            ctypes.c_int64(self._filled),
            ctypes.c_void_p(self.spans.ctypes.data),
            ctypes.c_int64(self.most),
            ctypes.byref(self._progress),
        )
        if done < 0:
            raise OddReply("a reply that is no page of events")
        return bool(done)


class OddReply(Exception):
    """A reply that is to be read the ordinary way."""


def can_fill() -> bool:
    """Whether pages can be filled here: what frames replies was compiled."""
    return _frames is not None
