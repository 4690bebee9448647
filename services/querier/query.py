"""What is asked of the network, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coremesh.contracts import ChatMessage, CompletionItem, Timings
from coremesh.metagraph import Neuron
from coremesh.types import EventId, new_event_id
from coremesh.wire.status import Status
from services.querier.choose import TopK


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query of the network. Times in seconds."""

    messages: tuple[ChatMessage, ...]
    kind: str
    topk: TopK
    timeout_s: float
    sample: bool = False
    """Draw the miners at random."""
    exclude: frozenset[str] = frozenset()
    """Hotkeys that are not to be asked; where too few others are left, all may be."""
    train_gating: bool = False
    train_network: bool = False
    difference: bool = False
    wait_for: int | None = None
    """Answer once so many have succeeded; the rest still count in the event."""
    by_reward: bool = True
    """Choose by reward, else the first good completion in gating order."""
    every: bool = False
    """The caller wants all completions, so all are waited for (or ``wait_for``)."""
    scored: bool = True
    """Whether the score fold may count it."""
    private: bool = False
    """Leave no text in the history."""
    live: bool = False
    """Hear the first miner's text as it comes, and then choose in gating order; where a safety filter has to judge
    texts first, this has no effect."""
    filter_prompt: bool = False
    filter_completions: bool = False
    must_filter: bool = False
    """Refuse the caller where the safety filter is away, instead of letting texts pass unjudged."""
    reward_timeout_s: float = 4.0
    id: EventId = field(default_factory=new_event_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the caller gets, aligned with ``neurons`` (the asked, most promising first).

    ``rewards`` is float32 [n], NaN where there is none. ``best`` is an index.
    """

    id: EventId
    neurons: tuple[Neuron, ...]
    statuses: tuple[Status | None, ...]
    """None for a miner that has not answered yet."""
    completions: tuple[str, ...]
    latencies_s: tuple[float, ...]
    rewards: NDArray[np.float32]
    best: int
    block: int
    timings: Timings
    degraded: tuple[str, ...]

    @property
    def neuron(self) -> Neuron:
        """Who gave the best completion."""
        return self.neurons[self.best]

    @property
    def completion(self) -> str:
        """The best completion."""
        return self.completions[self.best]

    def reward(self, index: int) -> float | None:
        """A reward as JSON has it."""
        reward = float(self.rewards[index])
        return reward if math.isfinite(reward) else None

    def ranked(self) -> list[int]:
        """Indices of the good completions, the best first: by reward, then in gating order."""
        good = [i for i, status in enumerate(self.statuses) if status == Status.OK]
        rest = sorted(
            (i for i in good if i != self.best),
            key=lambda i: -self.rewards[i] if math.isfinite(self.rewards[i]) else math.inf,
        )
        return [self.best, *rest]

    def items(self) -> tuple[CompletionItem, ...]:
        """All that has come back, the best first, then the failures."""
        good = self.ranked()
        failed = [i for i, status in enumerate(self.statuses) if status is not None and i not in set(good)]
        return tuple(
            CompletionItem(
                uid=self.neurons[i].uid,
                hotkey=self.neurons[i].hotkey,
                completion=self.completions[i],
                reward=self.reward(i),
                status=status_name(self.statuses[i]),
                latency_s=seconds(self.latencies_s[i]),
            )
            for i in (*good, *failed)
        )


def status_name(status: Status | None) -> str:
    """A status as JSON has it; ``pending`` for a miner that has not answered yet."""
    return status.name.lower() if status is not None else "pending"


def seconds(latency_s: float) -> float:
    """A latency as JSON has it: 0 where nothing was sent."""
    return latency_s if math.isfinite(latency_s) else 0.0
