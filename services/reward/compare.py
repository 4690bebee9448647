"""A shadow stack against the one that counts, from the events in which both have spoken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coremesh import tables
from coremesh.command import exit_code, say
from coremesh.errors import CoremeshError
from coremesh.events import ForwardEvent
from coremesh.history.protocol import History
from coremesh.history.redis import RedisHistory
from coremesh.progress import progress
from coremesh.settings import ALL_SECTIONS, ChainSettings, RedisSettings, load
from coremesh.types import ORIGIN

Floats = NDArray[np.float64]

ALPHA = 0.99
"""What a score keeps with every event, as the original's moving average does."""
PAGE = 1000
MOST_SHOWN = 20
DONE = 0
HELP = """usage: coremesh reward compare [--json] [--redis.url URL] [--chain.netuid N] [--config FILE]

Compares every shadow stack with the stack that counts, over the events in which both have spoken: how often
they agree, the rank correlation of their rewards, and the weights that either would have given (each event's
softmax, averaged with alpha 0.99 and normalised; failures count 0).

exit code: 0 done (also when no shadow stack has spoken), 2 a bad setting, 4 Redis does not answer"""


@dataclass(slots=True)
class Weight:
    """One uid's share of the weights under either stack."""

    uid: int
    counting: float
    shadow: float


@dataclass(slots=True)
class Comparison:
    """What one shadow stack said beside one that counts. None where nothing could be compared."""

    stack: str
    shadow: str
    events: int
    completions: int
    best_agreement: float | None
    """Share of events in which both have the same completions at the top."""
    pair_agreement: float | None
    """Share of pairs that both put in the same order, among those that the counting stack orders."""
    rank_correlation: float | None
    """Spearman's, with mean ranks for ties, averaged over the events in which both tell completions apart."""
    weights_moved: float
    """Half the sum of differences: 0 for the same weights, 1 for all of them given to others."""
    weights: list[Weight] = field(default_factory=list[Weight])


def ranks(values: Floats) -> Floats:
    """Ranks [n] from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def spearman(a: Floats, b: Floats) -> float | None:
    """Spearman's rank correlation; None where either has nothing but equal values."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / size if size else None


class Tally:
    """One pair of stacks, event by event."""

    def __init__(self, stack: str, shadow: str) -> None:
        self._stack = stack
        self._shadow = shadow
        self._events = self._completions = self._best = self._pairs = self._alike = 0
        self._correlations: list[float] = []
        self._scores: dict[int, NDArray[np.float64]] = {}

    def add(self, uids: NDArray[np.uint16], counting: Floats, shadow: Floats) -> None:
        """One event; rewards [n] are NaN for uids without."""
        good = np.isfinite(counting) & np.isfinite(shadow)
        both = np.stack([counting, shadow], axis=1)
        powers = np.exp(both - both[good].max(axis=0))
        target = np.where(good[:, None], powers, 0.0)
        target /= target.sum(axis=0)
        for uid, share in zip(uids.tolist(), target, strict=True):
            self._scores[uid] = ALPHA * self._scores.get(uid, np.zeros(2)) + (1.0 - ALPHA) * share
        a, b = counting[good], shadow[good]
        self._events += 1
        self._completions += len(a)
        self._best += bool(((a == a.max()) == (b == b.max())).all())
        order = np.sign(a[:, None] - a[None])
        ordered = order > 0
        self._pairs += int(ordered.sum())
        self._alike += int((ordered & (b[:, None] > b[None])).sum())
        found = spearman(a, b)
        if found is not None:
            self._correlations.append(found)

    def result(self) -> Comparison:
        """What was found; the weights by falling counting weight."""
        uids = sorted(self._scores)
        scores = np.array([self._scores[uid] for uid in uids]).reshape(-1, 2)
        weights = scores / np.maximum(scores.sum(axis=0), 1e-300)
        rows = [Weight(uid, float(a), float(b)) for uid, (a, b) in zip(uids, weights, strict=True)]
        return Comparison(
            stack=self._stack,
            shadow=self._shadow,
            events=self._events,
            completions=self._completions,
            best_agreement=self._best / self._events if self._events else None,
            pair_agreement=self._alike / self._pairs if self._pairs else None,
            rank_correlation=float(np.mean(self._correlations)) if self._correlations else None,
            weights_moved=float(np.abs(weights[:, 0] - weights[:, 1]).sum() / 2),
            weights=sorted(rows, key=lambda row: (-row.counting, row.uid)),
        )


async def compare(history: History) -> list[Comparison]:
    """Every pair of stacks that spoke of the same events, in the order of appearance. Raises HistoryUnavailable."""
    tallies: dict[tuple[str, str], Tally] = {}
    at = ORIGIN
    with progress("comparing", await history.length()) as advance:
        while page := await history.read(at, PAGE):
            for entry in page:
                if isinstance(entry.event, ForwardEvent):
                    _take(entry.event, tallies)
            at = page[-1].stream_id
            advance(len(page))
    return [tally.result() for tally in tallies.values()]


def _take(event: ForwardEvent, tallies: dict[tuple[str, str], Tally]) -> None:
    for key, column in event.parts.items():
        words = key.split(":")
        if len(words) != 3 or words[0] != "shadow" or words[2] != "reward":
            continue
        counting, shadow = event.rewards.astype(np.float64), column.astype(np.float64)
        if len(counting) == len(shadow) and (np.isfinite(counting) & np.isfinite(shadow)).any():
            pair = (event.stack_version, words[1])
            tallies.setdefault(pair, Tally(*pair)).add(event.uids, counting, shadow)


def show(found: list[Comparison], console: Console) -> None:
    """Print comparisons for people."""
    if not found:
        console.print(
            "No event has a shadow stack's rewards. Set COREMESH_REWARD_SHADOW to have some recorded."
        )
    for one in found:
        table = tables.table(f"shadow {one.shadow} beside {one.stack}", "", "")
        table.show_header = False
        table.add_row("events", str(one.events))
        table.add_row("completions", str(one.completions))
        table.add_row("the same best", _percent(one.best_agreement))
        table.add_row("pairs in the same order", _percent(one.pair_agreement))
        said = "-" if one.rank_correlation is None else f"{one.rank_correlation:.3f}"
        table.add_row("rank correlation", said)
        table.add_row("weights moved", _percent(one.weights_moved))
        console.print(table)
        numbers = ("uid", "weight", "under the shadow", "change")
        weights = tables.table("", *numbers, numbers=numbers)
        for row in one.weights[:MOST_SHOWN]:
            change = f"{row.shadow - row.counting:+.4f}"
            weights.add_row(str(row.uid), f"{row.counting:.4f}", f"{row.shadow:.4f}", change)
        console.print(weights)
        if len(one.weights) > MOST_SHOWN:
            console.print(f"{len(one.weights) - MOST_SHOWN} more uids: --json lists all.")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def main(argv: Sequence[str]) -> int:
    """The command. Gives the exit code."""
    words = list(argv)
    if "--help" in words:
        print(HELP)
        return DONE
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    try:
        settings = load([RedisSettings, ChainSettings], words, known=ALL_SECTIONS)
        found = asyncio.run(_run(settings[RedisSettings], settings[ChainSettings].netuid))
    except CoremeshError as error:
        say(error, "reward compare")
        return exit_code(error)
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
    else:
        show(found, tables.console())
    return DONE


async def _run(redis: RedisSettings, netuid: int) -> list[Comparison]:
    history = RedisHistory(redis.address, netuid, timeout=timedelta(seconds=redis.timeout_s))
    try:
        return await compare(history)
    finally:
        await history.close()
