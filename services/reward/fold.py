"""The fold of all that a stack learns from the history: statistics, common phrases, what was said lately."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from coremesh.events import ForwardEvent
from coremesh.history.protocol import Entry
from services.reward.config import Normalise
from services.reward.learnt import signs_of
from services.reward.stack import Learnt
from services.reward.statistics import Running, Statistics

NAME = "reward:stats"
ROLE = "reward"
SHADOW_NAME = "reward:stats:shadow"
SHADOW_ROLE = "reward:shadow"

_decoder = msgspec.msgpack.Decoder(Statistics)


class StatisticsFold:
    """Folds the raw values and signatures of every event that this very stack has scored, as the one that counts
    or as a shadow (which then need not begin anew when it comes to count). ``rules`` per function name, ``learnt``
    per mask.

    The version of the statistics is the number of such events, so that the ones behind a recorded reward come
    back by folding so many again. Another stack's values are on another scale: its checkpoint is not loaded,
    its events are passed over.
    """

    def __init__(
        self,
        stack_version: str,
        rules: Mapping[str, Normalise],
        learnt: Mapping[str, Learnt] | None = None,
    ) -> None:
        self.format = f"reward-stats/2 {stack_version}"
        self._learnt = dict(learnt or {})
        self._stack_version = stack_version
        self._rules = {name: rule for name, rule in rules.items() if rule.by == "running"}

    def initial(self) -> Statistics:
        """Nothing learnt."""
        return Statistics()

    def load(self, state: bytes) -> Statistics:
        """See Fold. Raises ValueError, and what msgspec raises, for what is no such state."""
        found = _decoder.decode(state)
        if len(found.recent.packed) % (4 * max(found.recent.columns, 1)):
            raise ValueError("a signature of the diversity history is cut off")
        return found

    def dump(self, state: Statistics) -> bytes:
        """See Fold."""
        return msgspec.msgpack.encode(state)

    async def apply(self, state: Statistics, entries: list[Entry]) -> Statistics:
        """A new state: what serves must not change under a request that reads it. In a thread: a long history
        takes a while, and requests go on."""
        return await asyncio.to_thread(self._applied, state, entries)

    def _applied(self, state: Statistics, entries: list[Entry]) -> Statistics:
        running = {key: msgspec.structs.replace(seen) for key, seen in state.running.items()}
        new = Statistics(state.version, running, state.phrases, state.recent)
        for entry in entries:
            event = entry.event
            if not isinstance(event, ForwardEvent):
                continue
            parts = event.parts
            prefix = "" if event.stack_version == self._stack_version else shadow_prefix(self._stack_version)
            raw = self._raw_of(parts, prefix)
            signs = {name: signs_of(name, one.columns, parts, prefix) for name, one in self._learnt.items()}
            signed = {name: found for name, found in signs.items() if found is not None}
            if raw or signed:
                new.version += 1
                self._learn(running, raw)
            for name, found in signed.items():
                self._learnt[name].learn(new, found)
        return new

    def _raw_of(self, parts: dict[str, NDArray[np.float32]], prefix: str) -> dict[str, NDArray[np.float32]]:
        """Raw values by key; empty for an event of other stacks."""
        found = {key.removeprefix(prefix): c for key, c in parts.items() if key.startswith(prefix)}
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
