"""The reward: a weighted sum of normalised functions, times masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.reward.batch import Batch, Floats, Function, Mask
from services.reward.config import Normalise
from services.reward.engine.text import visible
from services.reward.learnt import Signs
from services.reward.statistics import Statistics, normalise
from services.reward.work import Op

LARGEST = 1e6
"""No model means more than this; a value beyond it must not ruin statistics or overflow a float32."""


AS_IT_IS = Normalise()


@dataclass(frozen=True)
class Weighted:
    """A function with its weight and its normalisation."""

    function: Function
    weight: float
    rule: Normalise = AS_IT_IS


class Learnt(Protocol):
    """A mask that judges by what the history taught. Its factor follows from the signature and the statistics
    alone, so that both, once recorded, explain it."""

    @property
    def columns(self) -> int:
        """Numbers of a signature."""
        ...

    @property
    def op(self) -> Op[tuple[list[int], Statistics], float]:
        """A signature under statistics to its factor in [0, 1]."""
        ...

    async def signs(self, batch: Batch, statistics: Statistics) -> Signs:
        """Signatures [n, columns]."""
        ...

    def learn(self, state: Statistics, signs: Signs) -> None:
        """Fold one event's signatures into ``state``, replacing its parts and never changing them."""
        ...


@dataclass(frozen=True)
class Scored:
    """Everything about one batch; arrays [n], all finite. ``signs`` [n, columns] by learnt mask."""

    rewards: Floats
    raw: dict[str, Floats]
    normalised: dict[str, Floats]
    masks: dict[str, Floats]
    stats_version: int
    signs: dict[str, Signs] = field(default_factory=dict)


class Stack:
    """Reward functions and masks. ``version`` is a hash of all that decides a reward but the statistics."""

    def __init__(
        self,
        *,
        version: str,
        functions: Mapping[str, Weighted],
        masks: Mapping[str, Mask],
        learnt: Mapping[str, Learnt] | None = None,
        models: Mapping[str, str] | None = None,
        timed: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.version = version
        self.functions = dict(functions)
        self.masks = dict(masks)
        self.learnt = dict(learnt or {})
        self.models = dict(models or {})
        self._timed = timed

    @property
    def learns(self) -> bool:
        """Whether anything in it depends on the history."""
        return bool(self.learnt) or any(weighted.rule.by == "running" for weighted in self.functions.values())

    async def score(self, batch: Batch, statistics: Statistics) -> Scored:
        """Score a batch of n completions; n = 0 gives empty arrays.

        ``reward = (sum of weight * normalised) * (product of masks)``. Masks only lower: a negative sum is left
        as it is, since a factor below one would lift it. A completion that shows nothing has no reward above 0.
        """
        n = len(batch)
        raw: dict[str, Floats] = {}
        normalised: dict[str, Floats] = {}
        masks: dict[str, Floats] = {}
        total = np.zeros(n)
        for weighted in self.functions.values():
            key = weighted.function.key(batch)
            with self._timed(key):
                values = await weighted.function.raw(batch) if n else np.zeros(0)
            raw[key] = finite(values, weighted.rule.mean, dear=weighted.weight < 0)
            normalised[key] = normalise(raw[key], weighted.rule, statistics, key)
            total += weighted.weight * normalised[key]
        product = np.array([1.0 if visible(text).strip() else 0.0 for text in batch.completions])
        for name, mask in self.masks.items():
            with self._timed(f"mask:{name}"):
                values = await mask.values(batch) if n else np.zeros(0)
            masks[name] = np.clip(np.nan_to_num(values), 0.0, 1.0)
            product *= masks[name]
        signs: dict[str, Signs] = {}
        for name, learnt in self.learnt.items():
            with self._timed(f"mask:{name}"):
                signs[name] = (
                    await learnt.signs(batch, statistics)
                    if n
                    else np.zeros((0, learnt.columns), dtype=np.int64)
                )
                rows = [(row, statistics) for row in signs[name].tolist()]
                masks[name] = np.array(await batch.runner.run(learnt.op, rows), dtype=np.float64)
            product *= masks[name]
        rewards = np.where(total > 0, total * product, total)
        return Scored(rewards, raw, normalised, masks, statistics.version, signs)


def finite(values: NDArray[np.floating], mean: float, *, dear: bool = False) -> Floats:
    """The values as finite float64. One that is no number counts as the worst of its batch, and at most ``mean``; with
    ``dear``, where high values cost, as the highest, and at least ``mean``."""
    wide = np.asarray(values, dtype=np.float64)
    good = np.isfinite(wide)
    worst = (max if dear else min)([mean, *wide[good].tolist()])
    return np.clip(np.where(good, wide, worst), -LARGEST, LARGEST)
