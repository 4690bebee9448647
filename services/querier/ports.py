"""What a forward needs of the world, as narrow Protocols."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from coremesh.contracts import ChatMessage
from coremesh.events import ForwardEvent, Transcript
from coremesh.metagraph import Neuron
from coremesh.wire.status import Status


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of asking one miner. ``completion`` is bounded, clean text, empty unless the status is OK."""

    index: int
    """Which of the asked."""
    status: Status
    completion: str
    latency_s: float
    """From the request's own send."""


class Fanout(Protocol):
    """Asks many miners at once. No failure of a miner ever raises."""

    def ask(
        self,
        neurons: Sequence[Neuron],
        messages: tuple[ChatMessage, ...],
        timeout_s: float,
        on_delta: Callable[[str], None] | None = None,
        expected_s: Sequence[float] = (),
    ) -> AsyncGenerator[Reply, None]:
        """One reply per miner, in the order of arrival. Closing the iterator gives up on the rest.

        ``on_delta`` hears what the first of ``neurons`` says while it says it. ``expected_s``: how long each of them
        is expected to take. Whoever takes longest is asked first, since all of them together take as long.
        """
        ...

    def reward(
        self,
        neurons: Sequence[Neuron],
        messages: tuple[ChatMessage, ...],
        completions: Sequence[str],
        rewards: Sequence[float],
    ) -> None:
        """Tell miners what their completions were worth, in the background."""
        ...


class EventSink(Protocol):
    """Keeps events: a Recorder."""

    async def record(self, event: ForwardEvent, transcript: Transcript | None, hotkeys: list[str]) -> None:
        """Keep an event. Raises SpoolFull, OSError."""
        ...
