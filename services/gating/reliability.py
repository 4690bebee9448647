"""How likely a hotkey answers at all, and in time: running estimates that forget.

The heads already count failures at their long-run rate. What is kept here lets a choice use two things they cannot
know: a caller's deadline, and that a miner went down a moment ago.
"""

from __future__ import annotations

import numpy as np
import torch

from services.gating.pack import HeadFormat
from services.gating.rows import RowIndex, grown

_FAST = 0.3
_SLOW = 0.02
_LATENCY = 0.1
_LATENCY_FLOOR_S = 1e-3
_COLUMNS = 5  # slow share, fast share, observations, mean and variance of log latency


_NEVER_ASKED = np.array([0.5, 0.5, 1.0, 0.0, -1.0])


class Standing:
    """How likely certain hotkeys are to answer, made ready to be asked often."""

    def __init__(self, state: np.ndarray) -> None:
        """``state`` [n, columns of Reliability]."""
        slow, fast, _, self._mean, variance = state.T
        self._share = np.minimum(1.0, fast / np.maximum(slow, 1e-3))
        self._untimed = variance < 0
        self._spread = np.sqrt(2.0 * np.maximum(variance, 0.01))
        self._last: tuple[float | None, np.ndarray] = (None, np.clip(self._share, 1e-3, 1.0))

    def availability(self, deadline_s: float | None) -> np.ndarray:
        """See Reliability.availability; float64 [n]. Callers mostly have one deadline: the last answer is kept."""
        if self._last[0] != deadline_s:
            share = self._share
            if deadline_s is not None:
                z = (np.log(max(deadline_s, _LATENCY_FLOOR_S)) - self._mean) / self._spread
                in_time = 0.5 * (1.0 + torch.special.erf(torch.from_numpy(z)).numpy())
                share = share * np.where(self._untimed, 1.0, in_time)
            self._last = (deadline_s, np.clip(share, 1e-3, 1.0))
        return self._last[1]


class Reliability:
    """Success share and log-normal latency of each hotkey, exponentially forgotten, bounded in hotkeys."""

    def __init__(self, capacity: int = 8192) -> None:
        self._index = RowIndex(capacity)
        self._state = np.zeros((0, _COLUMNS))

    def observe(self, hotkeys: np.ndarray, ok: np.ndarray, latency_s: np.ndarray) -> None:
        """One step: distinct hotkeys uint64 [n], ok bool [n], seconds [n] (ignored where not ok or not finite).

        A step in which nobody succeeded is ignored: the fault is more likely ours than everybody's.
        """
        ok = np.asarray(ok, dtype=bool)
        if not ok.any():
            return
        rows, fresh = self._index.claim(hotkeys)
        self._state = grown(self._state, self._index.used)
        # One success in two before the first observation, worth one observation.
        self._state[fresh] = _NEVER_ASKED
        state = self._state[rows]
        state[:, 2] += 1.0
        for column, rate in ((0, _SLOW), (1, _FAST)):
            state[:, column] += np.maximum(rate, 1.0 / state[:, 2]) * (ok - state[:, column])
        latency = np.asarray(latency_s, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            timed = ok & np.isfinite(latency) & (latency >= 0)
        log = np.log(np.clip(latency[timed], _LATENCY_FLOOR_S, 1e4))
        seen = state[timed]
        first = seen[:, 4] < 0
        apart = np.where(first, 0.0, log - seen[:, 3])
        seen[:, 3] = np.where(first, log, seen[:, 3] + _LATENCY * apart)
        seen[:, 4] = np.where(first, 0.25, (1 - _LATENCY) * (seen[:, 4] + _LATENCY * np.square(apart)))
        state[timed] = seen
        self._state[rows] = state

    def success(self, hotkeys: np.ndarray) -> np.ndarray:
        """Long-run share of successes, float64 [n]; 0.5 for a hotkey never asked."""
        return self._column(hotkeys, 0, 0.5)

    def availability(self, hotkeys: np.ndarray, deadline_s: float | None = None) -> np.ndarray:
        """How much less likely than in the long run each hotkey is to answer now, in time: float64 [n], in (0, 1].

        The recent over the long-run share of successes (at most 1), times the chance that a success comes before
        ``deadline_s`` (log-normal). 1 for a hotkey never asked.
        """
        return self.standing(hotkeys).availability(deadline_s)

    def standing(self, hotkeys: np.ndarray) -> Standing:
        """What ``availability`` reads of hotkeys uint64 [n], as it is now."""
        rows = self._index.find(hotkeys)
        return Standing(np.vstack([self._state[: self._index.used], _NEVER_ASKED])[rows])  # -1 is the last

    def latency_s(self, hotkeys: np.ndarray) -> np.ndarray:
        """Median seconds of each hotkey's successes, float64 [n]; NaN when there was none."""
        mean, variance = self._column(hotkeys, 3, 0.0), self._column(hotkeys, 4, -1.0)
        return np.where(variance < 0, np.nan, np.exp(mean))

    def _column(self, hotkeys: np.ndarray, column: int, absent: float) -> np.ndarray:
        rows = self._index.find(hotkeys)
        values = np.full(rows.size, absent)
        values[rows >= 0] = self._state[rows[rows >= 0], column]
        return values

    def retire(self, hotkeys: np.ndarray) -> None:
        """Forget hotkeys that left the subnet."""
        self._state[self._index.release(hotkeys)] = 0.0

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays, for a checkpoint."""
        return {"reliability": self._state[: self._index.used], **self._index.arrays()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Reliability:
        """What ``arrays()`` described. Raises HeadFormat when the arrays do not fit together."""
        made = cls()
        made._index = RowIndex.from_arrays(arrays)
        made._state = arrays["reliability"]
        if made._state.shape != (made._index.used, _COLUMNS):
            raise HeadFormat("the arrays of the reliability state do not fit together")
        return made


def with_availability(
    mean: np.ndarray, std: np.ndarray, availability: np.ndarray, failure: float
) -> tuple[np.ndarray, np.ndarray]:
    """Expected reward when a miner answers in time only with probability ``availability``, else ``failure``.

    Mean and standard deviation [.., n] of what is believed of that expectation.
    """
    return availability * mean + (1.0 - availability) * failure, availability * std
