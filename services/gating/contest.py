"""Several rules on the same events, each choosing before it may learn: what would the chosen have been worth?

Only those who were asked have a reward. A training sample draws miner i with a known probability p_i, so each asked
miner stands for 1 / p_i of those available (Horvitz and Thompson 1952), and "ask the best k of all" becomes "take the
best of the asked up to the share k / available of that weight". Where the sample is smaller than that share has room
for, the best of the asked is taken: the estimate is then too low, for every rule alike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

import numpy as np

from coremesh.events import Event, Flag, ForwardEvent, MetagraphEvent
from services.gating.fold import GatingFold, GatingObservation
from services.gating.head import RULES
from services.gating.learning import departed, observation

CONTESTANTS = (*RULES, "moving-average", "random")
"""Names for contestant."""
_MOVING = 0.01


class Contestant(Protocol):
    """A way to rank miners that learns as it goes."""

    def rank(self, embedding: np.ndarray, hotkeys: np.ndarray) -> np.ndarray:
        """A number for each hotkey [n], higher is better, for a prompt's embedding [d]."""
        ...

    def observe(self, seen: GatingObservation) -> None:
        """Learn from what was observed."""
        ...

    def retire(self, hotkeys: np.ndarray) -> None:
        """Forget hotkeys that left."""
        ...


class FoldContestant:
    """A rule as the service runs it: head and reliability."""

    def __init__(self, fold: GatingFold) -> None:
        self._fold = fold

    def rank(self, embedding: np.ndarray, hotkeys: np.ndarray) -> np.ndarray:
        """See Contestant."""
        return self._fold.scores(embedding[None], hotkeys)[0][0]

    def observe(self, seen: GatingObservation) -> None:
        """See Contestant."""
        self._fold.apply(seen)

    def retire(self, hotkeys: np.ndarray) -> None:
        """See Contestant."""
        self._fold.retire(hotkeys)


class MovingAverage:
    """The same ranking for every prompt: a moving average of each hotkey's rewards, 0 for a failure."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, int]] = {}

    def rank(self, embedding: np.ndarray, hotkeys: np.ndarray) -> np.ndarray:
        """See Contestant."""
        return np.array([self._known.get(int(hotkey), (0.0, 0))[0] for hotkey in hotkeys])

    def observe(self, seen: GatingObservation) -> None:
        """See Contestant."""
        for hotkey, reward in zip(seen.hotkeys.tolist(), worth(seen.rewards).tolist(), strict=True):
            mean, count = self._known.get(hotkey, (0.0, 0))
            self._known[hotkey] = mean + max(_MOVING, 1 / (count + 1)) * (reward - mean), count + 1

    def retire(self, hotkeys: np.ndarray) -> None:
        """See Contestant."""
        for hotkey in hotkeys.tolist():
            self._known.pop(hotkey, None)


class Indifferent:
    """Everybody alike: ties are broken at random."""

    def rank(self, embedding: np.ndarray, hotkeys: np.ndarray) -> np.ndarray:
        """See Contestant."""
        return np.zeros(hotkeys.size)

    def observe(self, seen: GatingObservation) -> None:
        """See Contestant."""

    def retire(self, hotkeys: np.ndarray) -> None:
        """See Contestant."""


def contestant(name: str, dim: int, *, learning_rate: float = 0.01, momentum: float = 0.9) -> Contestant:
    """One of CONTESTANTS that has learnt nothing. Raises ValueError for another name."""
    if name == "random":
        return Indifferent()
    if name == "moving-average":
        return MovingAverage()
    return FoldContestant(GatingFold(name, dim, learning_rate=learning_rate, momentum=momentum))


class Contest:
    """Takes events in their order. ``values`` has a row per judged event: observed, best, then one per rule."""

    def __init__(
        self, rules: dict[str, Contestant], k: int, seed: int = 0, *, new_prompts: bool = False
    ) -> None:
        """``new_prompts``: judge only by prompts that nothing was learnt of before, told apart by their embedding."""
        self._rules = rules
        self._known: set[bytes] | None = set() if new_prompts else None
        self._k = k
        self._rng = np.random.default_rng(seed)
        self._values: list[list[float]] = []
        self._prompts: list[int] = []
        self._labels: dict[bytes, int] = {}
        self.seconds = dict.fromkeys(rules, 0.0)
        """CPU time of each rule, choosing and learning."""
        self.learnt = 0

    @property
    def values(self) -> np.ndarray:
        """Rewards float64 [judged, 2 + rules]."""
        return np.array(self._values, dtype=np.float64).reshape(-1, 2 + len(self._rules))

    @property
    def prompts(self) -> np.ndarray:
        """Labels int64 [judged]: events of one prompt have the same. Miners' answers to it are alike each time."""
        return np.array(self._prompts, dtype=np.int64)

    def take(self, event: Event, embedding: np.ndarray | None) -> None:
        """Judge, then learn. ``embedding`` [d] is of what the event told, None for nothing."""
        if isinstance(event, MetagraphEvent):
            if (left := departed(event)).size:
                for rule in self._rules.values():
                    rule.retire(left)
            return
        if embedding is not None and self._is_new(embedding):
            chance = propensities(event)
            if chance is not None:
                self._judge(event, embedding, chance)
        seen = observation(event, embedding)
        self.learnt += embedding is not None
        for name, rule in self._rules.items():
            start = time.process_time()
            rule.observe(seen)
            self.seconds[name] += time.process_time() - start

    def _is_new(self, embedding: np.ndarray) -> bool:
        """Whether it may be judged by; from now on it is known."""
        if self._known is None:
            return True
        key = _key(embedding)
        new = key not in self._known
        self._known.add(key)
        return new

    def _judge(self, event: ForwardEvent, embedding: np.ndarray, chance: np.ndarray) -> None:
        rewards = worth(event.rewards)
        share = min(1.0, self._k / max(event.available, rewards.size))
        # The order of an event's uids says what gating thought of them: equals must not profit from it.
        shuffled = self._rng.permutation(rewards.size)
        rewards, weight, hotkeys = rewards[shuffled], 1.0 / chance[shuffled], event.hotkeys[shuffled]
        row = [float(weight @ rewards / weight.sum()), value_of(rewards, rewards, weight, share)]
        for name, rule in self._rules.items():
            start = time.process_time()
            ranks = rule.rank(embedding, hotkeys)
            self.seconds[name] += time.process_time() - start
            row.append(value_of(ranks, rewards, weight, share))
        self._values.append(row)
        self._prompts.append(self._labels.setdefault(_key(embedding), len(self._labels)))


def _key(embedding: np.ndarray) -> bytes:
    return blake2b(embedding.tobytes(), digest_size=16).digest()


def propensities(event: ForwardEvent) -> np.ndarray | None:
    """How likely each of the asked was to be asked, float64 [n] in (0, 1], or None where it was no sample.

    A choice of the best asks at least one miner for certain, and its others hardly ever: it can stand for nobody.
    """
    count = event.uids.size
    if not count or not event.scored:
        return None
    available = max(event.available, count)
    if event.propensity.size == count:
        chance = event.propensity.astype(np.float64)
        if not (np.isfinite(chance) & (chance > 0) & (chance <= 1)).all():
            return None
        return chance if count == available or float(chance.max()) < 1.0 else None
    if count == available or event.flags & Flag.RANDOM_SAMPLE:
        return np.full(count, count / available)
    return None


def value_of(ranks: np.ndarray, rewards: np.ndarray, weight: np.ndarray, share: float) -> float:
    """Mean reward of the best ``share`` of the weight by ``ranks``; all arrays [n], the last one taken in part."""
    order = np.argsort(-ranks, kind="stable")
    room = share * float(weight.sum())
    held = weight[order]
    part = np.clip(room - (np.cumsum(held) - held), 0.0, held)
    return float(part @ rewards[order] / part.sum())


def worth(rewards: np.ndarray) -> np.ndarray:
    """Rewards float64 [n] with failures (NaN) at 0, or at the event's lowest reward where that is less."""
    rewards = np.asarray(rewards, dtype=np.float64)
    told = rewards[np.isfinite(rewards)]
    return np.where(np.isfinite(rewards), rewards, min(0.0, float(told.min())) if told.size else 0.0)


def standard_error(values: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Of the mean of ``values`` [n]; 0 for fewer than two groups.

    Values of one group (labels int64 [n]; each its own without) may depend on one another: what counts is how the
    groups' sums of deviations scatter (Liang and Zeger 1986).
    """
    deviations = values - values.mean() if values.size else values
    sums = deviations if groups is None else np.bincount(groups, weights=deviations)[np.unique(groups)]
    if sums.size < 2:
        return 0.0
    return float(np.sqrt(np.square(sums).sum() * sums.size / (sums.size - 1)) / values.size)


def windows(values: np.ndarray, most: int = 20) -> tuple[list[int], np.ndarray]:
    """A learning curve: the ends of up to ``most`` even windows, and the columns' means in each."""
    parts: Sequence[np.ndarray] = [part for part in np.array_split(values, most) if len(part)]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return ends, np.array([part.mean(axis=0) for part in parts]).reshape(len(parts), values.shape[1])
