"""The fold of running statistics: what the stack learns from the history."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from coremesh.events import ForwardEvent
from coremesh.history.protocol import Entry
from services.reward.config import Normalise
from services.reward.statistics import Running, Statistics

NAME = "reward:stats"
ROLE = "reward"
SHADOW_NAME = "reward:stats:shadow"
SHADOW_ROLE = "reward:shadow"

_decoder = msgspec.msgpack.Decoder(Statistics)


class StatisticsFold:
    """Folds the raw values of every event that this very stack has scored, as the one that counts or as a shadow
    (which then need not begin anew when it comes to count). ``rules`` per function name.

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
            if not isinstance(event, ForwardEvent):
                continue
            raw = self._raw_of(event)
            if raw:
                version += 1
                self._learn(running, raw)
        return Statistics(version, running)

    def _raw_of(self, event: ForwardEvent) -> dict[str, NDArray[np.float32]]:
        """Raw values by key; empty for an event of other stacks."""
        prefix = "" if event.stack_version == self._stack_version else shadow_prefix(self._stack_version)
        found = {key.removeprefix(prefix): c for key, c in event.parts.items() if key.startswith(prefix)}
        return {key: c for key, c in found.items() if key.removesuffix(".difference") in self._rules}

    def _learn(self, running: dict[str, Running], raw: dict[str, NDArray[np.float32]]) -> None:
        for key, column in raw.items():
            rule = self._rules[key.removesuffix(".difference")]
            values = column.astype(np.float64)
            values = values[np.isfinite(values)]
            if key not in running:
                running[key] = Running(rule.prior, rule.mean, rule.deviation**2)
            running[key].add(values, rule.cap)


def shadow_prefix(stack_version: str) -> str:
    """What the parts of a shadow stack are called in an event: its version, and then as usual."""
    return f"shadow:{stack_version}:"
