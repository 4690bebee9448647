"""Which row of a head's arrays belongs to which hotkey."""

from __future__ import annotations

import numpy as np


class RowIndex:
    """Hotkey digests to rows: bounded, deterministic; the least recently claimed hotkey makes room.

    A row is reused after its hotkey is released or evicted; whoever claims it must reset it first.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a row index needs a capacity of at least 1")
        self.capacity = capacity
        self._rows: dict[int, int] = {}  # in order of the last claim
        self._free: list[int] = []
        self._used = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def used(self) -> int:
        """One past the highest row ever given out: how long the arrays must be."""
        return self._used

    def find(self, hotkeys: np.ndarray) -> np.ndarray:
        """Rows of ``hotkeys`` as int64 [n]; -1 where a hotkey has none."""
        get = self._rows.get
        return np.array([get(key, -1) for key in hotkeys.tolist()], dtype=np.int64)

    def claim(self, hotkeys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows for distinct ``hotkeys`` (at most ``capacity``), and those among them that are new: int64 arrays."""
        keys = hotkeys.tolist()
        if len(keys) > self.capacity:
            raise ValueError(f"{len(keys)} hotkeys for a capacity of {self.capacity}")
        rows: list[int] = []
        missing: list[int] = []
        for at, key in enumerate(keys):
            row = self._rows.pop(key, -1)
            if row < 0:
                missing.append(at)
            else:
                self._rows[key] = row
            rows.append(row)
        fresh: list[int] = []
        for at in missing:
            if self._free:
                row = self._free.pop()
            elif self._used < self.capacity:
                row = self._used
                self._used += 1
            else:
                row = self._rows.pop(next(iter(self._rows)))
            self._rows[keys[at]] = row
            rows[at] = row
            fresh.append(row)
        return np.array(rows, dtype=np.int64), np.array(fresh, dtype=np.int64)

    def release(self, hotkeys: np.ndarray) -> np.ndarray:
        """Forget ``hotkeys``; returns the rows set free, int64."""
        freed = [row for key in hotkeys.tolist() if (row := self._rows.pop(key, -1)) >= 0]
        self._free.extend(freed)
        return np.array(freed, dtype=np.int64)

    def items(self) -> tuple[np.ndarray, np.ndarray]:
        """Hotkeys (uint64) and their rows (int64), the least recently claimed first."""
        return (
            np.array(list(self._rows), dtype=np.uint64),
            np.array(list(self._rows.values()), dtype=np.int64),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays, for a checkpoint."""
        hotkeys, rows = self.items()
        return {
            "index_hotkeys": hotkeys,
            "index_rows": rows,
            "index_free": np.array(self._free, dtype=np.int64),
            "index_size": np.array([self.capacity, self._used], dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> RowIndex:
        """The index that ``arrays()`` described."""
        capacity, used = arrays["index_size"].tolist()
        index = cls(capacity)
        index._used = used
        index._rows = dict(zip(arrays["index_hotkeys"].tolist(), arrays["index_rows"].tolist(), strict=True))
        index._free = arrays["index_free"].tolist()
        return index


def grown(array: np.ndarray, rows: int) -> np.ndarray:
    """``array`` with room for ``rows`` along its first axis, doubling, zero-filled."""
    if array.shape[0] >= rows:
        return array
    bigger = np.zeros((max(rows, 2 * array.shape[0], 64), *array.shape[1:]), array.dtype)
    bigger[: array.shape[0]] = array
    return bigger
