"""How miners did of late, one row of columns a hotkey."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coremesh.events import ForwardEvent
from coremesh.wire.status import Status

SAMPLES = 240
"""Requests remembered of one miner."""
_ROWS = 64


@dataclass(frozen=True, slots=True)
class Samples:
    """The last requests to one miner, oldest first, aligned."""

    time_ms: NDArray[np.int64]
    status: NDArray[np.uint8]
    latency_s: NDArray[np.float32]
    rewards: NDArray[np.float32]
    """NaN where it did not succeed or was not scored."""

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which succeeded."""
        return self.status == Status.OK


@dataclass(frozen=True, slots=True)
class Summary:
    """The last requests to some miners in one number each, aligned; NaN where there is none."""

    asked: NDArray[np.int64]
    success: NDArray[np.float64]
    """Share of successes."""
    latency_s: NDArray[np.float64]
    """Median over the successes."""
    reward: NDArray[np.float64]
    """Mean over the rewarded successes."""
    last_status: NDArray[np.uint8]
    last_ms: NDArray[np.int64]
    newest: NDArray[np.float32]
    """The newest rewards [miners, n], the newest last; NaN for a failure."""


class Window:
    """The last SAMPLES requests to each hotkey: about 4 KB a miner, whatever happens.

    Hotkeys are known by their digest, so a uid that changes hands begins anew.
    """

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._count = np.zeros(_ROWS, np.int64)
        self._time = np.zeros((_ROWS, SAMPLES), np.int64)
        self._status = np.zeros((_ROWS, SAMPLES), np.uint8)
        self._latency = np.zeros((_ROWS, SAMPLES), np.float32)
        self._rewards = np.zeros((_ROWS, SAMPLES), np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, event: ForwardEvent) -> None:
        """Write down what one forward says of each miner."""
        digests = event.hotkeys.tolist()
        known = [i for i, digest in enumerate(digests) if digest]
        if not known:
            return
        rows = np.array([self._row(digests[i]) for i in known])
        at = self._count[rows] % SAMPLES
        self._time[rows, at] = event.time_ms
        self._status[rows, at] = event.status[known]
        self._latency[rows, at] = event.latency_s[known]
        self._rewards[rows, at] = event.rewards[known]
        self._count[rows] += 1

    def samples(self, digest: int) -> Samples:
        """What is remembered of one hotkey."""
        row = self._rows.get(digest)
        count = 0 if row is None else int(self._count[row])
        kept = min(count, SAMPLES)
        order = (np.arange(count - kept, count)) % SAMPLES
        at = 0 if row is None else row
        return Samples(
            self._time[at, order],
            self._status[at, order],
            self._latency[at, order],
            self._rewards[at, order],
        )

    def summary(self, digests: list[int], newest: int) -> Summary:
        """Of each of ``digests``, computed at once; of one that is not known, that it was never asked."""
        rows = np.array([self._rows.get(digest, -1) for digest in digests], np.int64)
        count = np.where(rows >= 0, self._count[rows], 0)
        asked = np.minimum(count, SAMPLES)
        there = np.arange(SAMPLES) < asked[:, None]
        ok = there & (self._status[rows] == Status.OK)
        rewards = np.where(ok, self._rewards[rows], np.nan).astype(np.float64)
        rewards[~np.isfinite(rewards)] = np.nan
        finite = np.isfinite(rewards)
        last = (count - 1) % SAMPLES
        at = (count[:, None] - np.arange(newest, 0, -1)) % SAMPLES
        old = np.arange(newest, 0, -1) > asked[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return Summary(
                asked=asked,
                success=ok.sum(axis=1) / asked,
                latency_s=_median(np.where(ok, self._latency[rows], np.inf), ok.sum(axis=1)),
                reward=np.where(finite, rewards, 0.0).sum(axis=1) / finite.sum(axis=1),
                last_status=self._status[rows, last],
                last_ms=self._time[rows, last],
                newest=np.where(old, np.nan, np.take_along_axis(rewards, at, axis=1)),
            )

    def keep(self, digests: Iterable[int]) -> None:
        """Forget all other hotkeys."""
        wanted = set(digests)
        left = [digest for digest in self._rows if digest in wanted]
        if len(left) == len(self._rows):
            return
        order = np.array([self._rows[digest] for digest in left], np.int64)
        for name, column in self._columns():
            moved = np.zeros_like(column)
            moved[: len(left)] = column[order]
            setattr(self, name, moved)
        self._rows = {digest: row for row, digest in enumerate(left)}

    def _row(self, digest: int) -> int:
        row = self._rows.setdefault(digest, len(self._rows))
        if row == len(self._count):
            for name, column in self._columns():
                setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        return row

    def _columns(self) -> list[tuple[str, NDArray[Any]]]:
        names = ("_count", "_time", "_status", "_latency", "_rewards")
        return [(name, getattr(self, name)) for name in names]


def _median(values: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """The median of the ``count`` smallest of each row, NaN for none."""
    ordered = np.sort(values, axis=1)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0)[:, None] // 2, axis=1)
    high = np.take_along_axis(ordered, count[:, None] // 2 % values.shape[1], axis=1)
    return np.where(count > 0, (low + high)[:, 0] / 2, np.nan)
