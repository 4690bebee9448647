"""What a miner's regression learns from a step's rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FAILURE = -1.5
"""Target of a failure, in standard deviations of a step's rewards below the average miner (NUMBERS.md)."""
CLIP = 4.0
BOUND = 1e6
"""Rewards beyond it are no rewards but accidents; squares of the rest stay finite."""
_PRIOR_WEIGHT = 4.0
_SCALE_RATE = 0.02


@dataclass
class Targets:
    """Per-step z-scores that stay comparable whoever was asked.

    Rewards differ from prompt to prompt, so each step is centred on itself. A step that asked good miners would
    make them look average; so the centre is put where the head expected these miners to be relative to all
    (``level``). The scale leans on the running one when successes are few. Failures are FAILURE.
    """

    variance: float = 0.0
    steps: int = 0

    def __call__(self, rewards: np.ndarray, success: np.ndarray, level: float) -> np.ndarray | None:
        """Targets float64 [n] for rewards [n] with NaN where there is nothing to learn from, or None.

        None when nobody succeeded: then the fault is more likely ours than everybody's.
        """
        count = int(success.sum())
        if count == 0:
            return None
        target = np.where(success, np.nan, FAILURE)
        if count == 1:
            return target  # one reward has no scale
        good = np.clip(rewards[success], -BOUND, BOUND)
        mean = float(good.mean())
        squares = float(np.square(good - mean).sum())
        if self.steps == 0:
            variance = squares / (count - 1)
        else:
            variance = (_PRIOR_WEIGHT * self.variance + squares) / (_PRIOR_WEIGHT + count - 1)
            squares = min(squares / (count - 1), 16.0 * max(self.variance, 1e-12)) * (count - 1)
        rate = max(_SCALE_RATE, 1.0 / (self.steps + 1)) * min(1.0, (count - 1) / 8)
        self.variance += rate * (squares / (count - 1) - self.variance)
        self.steps += 1
        if variance > 1e-18:
            target[success] = np.clip((good - mean) / np.sqrt(variance), -CLIP, CLIP) + level
        else:
            target[success] = level  # all alike: as good as expected, on average
        return target


def successes(rewards: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Which of the queried count as successes: answered, with a finite reward (bool [n])."""
    return np.asarray(ok, dtype=bool) & np.isfinite(rewards)
