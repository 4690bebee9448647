"""Several rules side by side over the recorded history: what each would have set, and how far they are apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from coremesh.events import Event, ForwardEvent, MetagraphEvent
from coremesh.progress import progress
from coremesh.types import ORIGIN
from services.weights import scores
from services.weights.compute import Limits, compute_weights
from services.weights.exact import Floats
from services.weights.fold import NAME
from services.weights.recorded import Recorded, pages
from services.weights.rules import Rule
from services.weights.scores import ScoreState

TOP = 10


@dataclass(slots=True)
class Ranked:
    """One rule at the end of the history."""

    rule: str
    weights: dict[int, float]
    """uid to share, without zeros."""
    spearman_reward: float | None
    """Rank correlation of its weights with the miners' mean rewards; None with fewer than two miners scored."""
    churn: float | None
    """Mean of sum |change of weight| between ends of epochs that had events; None with fewer than two of them."""
    churn_by_epoch: list[float | None] = field(default_factory=list[float | None])
    """From each of the backtest's epochs to the next; None where the rule had no weights at either end."""
    live: bool | None = None
    """Whether its scores are the ones that the service holds, bit for bit; None: it is not the rule in force, or
    nothing is held."""


@dataclass(slots=True)
class Pair:
    """Two rules at the end of the history."""

    one: str
    two: str
    spearman: float | None
    top_overlap: float
    """Share of the best ten uids that both have."""


@dataclass(slots=True)
class Backtest:
    """What a backtest found."""

    entries: int
    events: int
    last_id: str
    trimmed: str
    epoch_blocks: int
    epochs: list[int]
    """First block of each epoch that had events and ended with weights of any rule."""
    mean_reward: dict[int, float]
    """uid to the mean reward of its successes, of the hotkey that holds it now."""
    rules: list[Ranked]
    pairs: list[Pair]


async def backtest(
    history: Recorded, rules: dict[str, Rule], *, epoch_blocks: int = 360, limits: Limits | None = None
) -> Backtest:
    """Fold the whole history through every rule. ``rules``: by the name to show. ``limits``: the subnet's.

    Raises HistoryUnavailable.
    """
    checkpoint = await history.load(NAME)
    until = checkpoint.last_id if checkpoint else await history.last_id()
    trimmed = await history.trimmed()
    tracks = {name: _Track(rule, limits) for name, rule in rules.items()}
    means = _Means()
    epochs: list[int] = []
    entries, epoch = 0, -1
    with progress("backtesting", await history.length()) as advance:
        async for page in pages(history, trimmed, until):
            entries += len(page)
            run: list[Event] = []
            for entry in page:
                event = entry.event
                here = event.block // epoch_blocks
                if here > epoch >= 0:
                    _fold(tracks, means, run)
                    run = []
                    ends = {name: track.weights() for name, track in tracks.items()}
                    if any(end.any() for end in ends.values()):
                        for name, track in tracks.items():
                            track.close(ends[name], first=not epochs)
                        epochs.append(epoch * epoch_blocks)
                epoch = max(epoch, here)
                run.append(event)
            _fold(tracks, means, run)
            advance(len(page))
    held = checkpoint.state if checkpoint and trimmed == ORIGIN else None
    ranked = {name: track.ranked(name, means) for name, track in tracks.items()}
    for name, track in tracks.items():
        if held is not None and checkpoint and checkpoint.format == f"{scores.LAYOUT}:{track.rule.format}":
            ranked[name].live = scores.dump(track.state) == held
    some = next(iter(tracks.values())).state if tracks else ScoreState()
    return Backtest(
        entries=entries,
        events=some.events,
        last_id=until,
        trimmed=trimmed,
        epoch_blocks=epoch_blocks,
        epochs=epochs,
        mean_reward=means.of(some),
        rules=list(ranked.values()),
        pairs=_pairs(tracks),
    )


def _fold(tracks: dict[str, _Track], means: _Means, events: list[Event]) -> None:
    for track in tracks.values():
        track.state = scores.fold(track.state, events, track.rule)
    means.take(events)


class _Track:
    """One rule's fold, and its weights at the ends of epochs."""

    def __init__(self, rule: Rule, limits: Limits | None) -> None:
        self.rule = rule
        self.state = ScoreState()
        self._limits = limits
        self._last: Floats | None = None
        self._moved: list[float | None] = []

    def weights(self) -> Floats:
        """Shares per uid, zeros while nothing was scored."""
        state = self.state
        found = self.rule.scores(state.moving, state.successes, state.failures)
        size = state.announced or state.size
        limits = self._limits or Limits(size)
        vector = compute_weights(
            found,
            Limits(size, limits.min_weights, limits.max_weight, limits.fill_last),
            no_history="skip",
        )
        shares = np.zeros(size)
        shares[list(vector.uids)] = vector.weights
        return shares

    def close(self, now: Floats, *, first: bool) -> None:
        """An epoch ends with these weights. ``first``: there is none to compare it with."""
        if not first:
            self._moved.append(self._change(now))
        self._last = now if now.any() else None

    def _change(self, now: Floats) -> float | None:
        if self._last is None or not now.any():
            return None
        n = max(len(now), len(self._last))
        gap = np.pad(now, (0, n - len(now))) - np.pad(self._last, (0, n - len(self._last)))
        return float(np.abs(gap).sum())

    def ranked(self, name: str, means: _Means) -> Ranked:
        """What it came to."""
        now, mean = self.weights(), means.of(self.state)
        known = [uid for uid in sorted(mean) if uid < len(now)]
        moved = [change for change in self._moved if change is not None]
        return Ranked(
            rule=name,
            weights={int(uid): float(now[uid]) for uid in np.flatnonzero(now)},
            spearman_reward=spearman(now[known], np.array([mean[uid] for uid in known])),
            churn=float(np.mean(moved)) if moved else None,
            churn_by_epoch=self._moved,
        )


class _Means:
    """Mean rewards by hotkey."""

    def __init__(self) -> None:
        self._sums: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, MetagraphEvent) or not scores.counts(event):
                continue
            _add(self, event)

    def add(self, digest: int, reward: float) -> None:
        self._sums[digest] = self._sums.get(digest, 0.0) + reward
        self._counts[digest] = self._counts.get(digest, 0) + 1

    def of(self, state: ScoreState) -> dict[int, float]:
        """By uid, of the hotkeys that hold the uids now."""
        return {
            uid: self._sums[digest] / self._counts[digest]
            for uid, digest in enumerate(state.digests.tolist())
            if digest in self._counts
        }


def _add(means: _Means, event: ForwardEvent) -> None:
    rewards = event.rewards
    for i in np.flatnonzero(np.isfinite(rewards)).tolist():
        means.add(int(event.hotkeys[i]), float(rewards[i]))


def spearman(one: Floats, two: Floats) -> float | None:
    """The rank correlation of two columns, ties at their mean rank; None where a column does not vary."""
    if len(one) < 2:
        return None
    a, b = _ranks(one), _ranks(two)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else None


def _ranks(values: Floats) -> Floats:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + 1 + ends) / 2)[index]


def _pairs(tracks: dict[str, _Track]) -> list[Pair]:
    found = {name: track.weights() for name, track in tracks.items()}
    names = list(found)
    pairs: list[Pair] = []
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            a, b = found[one], found[two]
            n = min(TOP, int((a > 0).sum()), int((b > 0).sum()))
            shared = len(_top(a, n) & _top(b, n))
            pairs.append(Pair(one, two, spearman(a, b), shared / n if n else 0.0))
    return pairs


def _top(weights: Floats, n: int) -> set[int]:
    return set(np.lexsort((np.arange(len(weights)), -weights))[:n].tolist())
