"""The fold of running statistics: what the stack learns from the history."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from coremesh.events import ForwardEvent
from coremesh.history.protocol import Entry
from services.reward.config import Normalise
from services.reward.statistics import Running, Statistics

NAME = "reward:stats"
ROLE = "reward"

_decoder = msgspec.msgpack.Decoder(Statistics)


class StatisticsFold:
    """Folds the raw values of every event that this very stack has scored. ``rules`` per function name.

    The version of the statistics is the number of such events, so that the ones behind a recorded reward come
    back by folding so many again. Another stack's values are on another scale: its checkpoint is not loaded,
    its events are passed over.
    """

    def __init__(self, stack_version: str, rules: Mapping[str, Normalise]) -> None:
        self.format = f"reward-stats/1 {stack_version}"
        self._stack_version = stack_version
        self._rules = {name: rule for name, rule in rules.items() if rule.by == "running"}

    def initial(self) -> Statistics:
        """Nothing learnt."""
        return Statistics()

    def load(self, state: bytes) -> Statistics:
        """See Fold."""
        return _decoder.decode(state)

    def dump(self, state: Statistics) -> bytes:
        """See Fold."""
        return msgspec.msgpack.encode(state)

    async def apply(self, state: Statistics, entries: list[Entry]) -> Statistics:
        """A new state: what serves must not change under a request that reads it."""
        running = {key: msgspec.structs.replace(seen) for key, seen in state.running.items()}
        version = state.version
        for entry in entries:
            event = entry.event
            if isinstance(event, ForwardEvent) and event.stack_version == self._stack_version:
                version += 1
                self._learn(running, event)
        return Statistics(version, running)

    def _learn(self, running: dict[str, Running], event: ForwardEvent) -> None:
        for key, column in event.parts.items():
            rule = self._rules.get(key.removesuffix(".difference"))
            if rule is None:
                continue
            values = column.astype(np.float64)
            values = values[np.isfinite(values)]
            if key not in running:
                running[key] = Running(rule.prior, rule.mean, rule.deviation**2)
            running[key].add(values, rule.cap)
