"""The chain's key-value state with a bounded past.

Keys and values are SCALE bytes, as a node keeps them. A read names a block; blocks older than the window are
gone, like on a node that prunes. Superseded values are kept per key, so an idle key costs nothing per block.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator

WINDOW_BLOCKS = 1024


class Store:
    """Current values, the values they superseded within the window, and one undoable transaction.

    Writes belong to the block begun last. Nothing here awaits: a block is executed in one go.
    """

    def __init__(self, values: dict[bytes, bytes] | None = None, *, window: int = WINDOW_BLOCKS) -> None:
        self._now: dict[bytes, bytes] = dict(values or {})
        self._keys: list[bytes] = sorted(self._now)
        # Per key: (block in which the value was superseded, the value until then), oldest first.
        self._past: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._touched: deque[tuple[int, set[bytes]]] = deque()
        self._undo: list[tuple[bytes, bytes | None]] | None = None
        self._window = window

    def begin_block(self, number: int) -> None:
        """Attribute the writes that follow to block ``number`` and forget what left the window."""
        self._touched.append((number, set()))
        while self._touched and self._touched[0][0] <= number - self._window:
            block, keys = self._touched.popleft()
            for key in keys:
                self._forget(key, block)

    def _forget(self, key: bytes, block: int) -> None:
        past = self._past.get(key)
        if past is None:
            return
        while past and past[0][0] <= block:
            past.pop(0)
        if not past:
            del self._past[key]
            if key not in self._now:
                del self._keys[bisect_left(self._keys, key)]

    def set(self, key: bytes, value: bytes | None) -> None:
        """Write ``value``, or delete the key when it is None."""
        old = self._now.get(key)
        if old == value:
            return
        if self._undo is not None:
            self._undo.append((key, old))
        if self._touched:
            block, keys = self._touched[-1]
            if key not in keys:
                keys.add(key)
                self._past.setdefault(key, []).append((block, old))
        index = bisect_left(self._keys, key)
        if self._keys[index : index + 1] != [key]:
            self._keys.insert(index, key)
        if value is None:
            del self._now[key]
        else:
            self._now[key] = value

    def get(self, key: bytes, block: int | None = None) -> bytes | None:
        """The value after ``block`` (None: now). Blocks outside the window are the caller's to refuse."""
        if block is not None:
            for superseded, value in self._past.get(key, ()):
                if superseded > block:
                    return value
        return self._now.get(key)

    def keys(self, prefix: bytes, *, after: bytes | None = None, block: int | None = None) -> Iterator[bytes]:
        """Keys with ``prefix`` that have a value at ``block``, ascending, from just after ``after``."""
        start = bisect_left(self._keys, prefix)
        if after is not None and after > prefix:
            start = bisect_right(self._keys, after)
        for index in range(start, len(self._keys)):
            key = self._keys[index]
            if not key.startswith(prefix):
                return
            if self.get(key, block) is not None:
                yield key

    def begin(self) -> None:
        """Open a transaction: the writes that follow can be rolled back until `commit`."""
        self._undo = []

    def commit(self) -> None:
        """Keep the transaction's writes."""
        self._undo = None

    def rollback(self) -> None:
        """Undo the transaction's writes."""
        undo, self._undo = self._undo or [], None
        for key, value in reversed(undo):
            self.set(key, value)

    def values(self) -> dict[bytes, bytes]:
        """A copy of the current values."""
        return dict(self._now)

    def __len__(self) -> int:
        return len(self._now)

    @property
    def superseded(self) -> int:
        """How many past values are held."""
        return sum(map(len, self._past.values()))
