"""The gating fold over the event history: prompts are encoded here, so that the fold itself stays pure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from coremesh.errors import Busy
from coremesh.events import Event, Flag, ForwardEvent, Message, MetagraphEvent
from coremesh.history.protocol import Entry
from coremesh.settings import GatingSettings
from coremesh.text import HasRoleAndContent, flatten
from coremesh.types import hotkey_digest
from services.gating.fold import GatingFold, GatingObservation

LAYOUT = 2
"""Changes when what the fold keeps, or how it reads an event, does."""
AT_ONCE = 64
"""Texts of the history that the encoder is given at once."""
PAUSE_S = 0.02
"""Before texts that found no place are offered again."""


class Encoder(Protocol):
    """What learning and serving need of the encoder."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def identity(self) -> str:
        """Equal only for encoders that give equal vectors."""
        ...

    async def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, dim]. Raises Busy where too many wait already."""
        ...


def prompt_text(messages: Sequence[HasRoleAndContent]) -> str:
    """The text that stands for a prompt.

    System messages are left out while there are others: training puts the same one before every question, and users
    send none, so with it the two would look further apart than two topics do.
    """
    spoken = [message for message in messages if message.role != "system"]
    return flatten(spoken or messages)


class GatingLearning:
    """The Fold that the gating leader runs. A new rule (or step size of one) or encoder is a new format, a generation
    of its own: it is learnt from the history, and a head of another one is never reused (see generation.py)."""

    def __init__(self, settings: GatingSettings, encoder: Encoder) -> None:
        self._settings = settings
        self._encoder = encoder
        step = f":{settings.learning_rate!r}:{settings.momentum!r}" if "original" in settings.rule else ""
        self.format = f"gating/{LAYOUT}/{settings.rule}{step}/{encoder.identity}"

    def initial(self) -> GatingFold:
        """Nothing learnt."""
        return GatingFold(
            self._settings.rule,
            self._encoder.dim,
            self._encoder.identity,
            learning_rate=self._settings.learning_rate,
            momentum=self._settings.momentum,
        )

    def load(self, state: bytes) -> GatingFold:
        """The fold in a checkpoint of this format."""
        return GatingFold.from_bytes(
            state,
            self._settings.rule,
            self._encoder.dim,
            self._encoder.identity,
            learning_rate=self._settings.learning_rate,
            momentum=self._settings.momentum,
        )

    def dump(self, state: GatingFold) -> bytes:
        """The fold for a checkpoint."""
        return state.to_bytes()

    async def apply(self, state: GatingFold, entries: list[Entry]) -> GatingFold:
        """Fold forwards and metagraph changes, in their order. Off the event loop: refitting takes its time."""
        texts = [prompt_text(messages) for entry in entries if (messages := told(entry.event))]
        vectors = await self._encoded(texts)
        return await asyncio.to_thread(self._fold, state, entries, vectors)

    async def _encoded(self, texts: list[str]) -> list[np.ndarray]:
        """A few at a time, so that callers' prompts come in between; and again where callers leave no place for them: a
        fold that gave up would end the process just when it is needed most."""
        vectors: list[np.ndarray] = []
        some = AT_ONCE
        while len(vectors) < len(texts):
            try:
                vectors += list(await self._encoder.encode(texts[len(vectors) : len(vectors) + some]))
            except Busy:
                some = max(1, some // 2)
                await asyncio.sleep(PAUSE_S)
            else:
                some = AT_ONCE
        return vectors

    def _fold(self, state: GatingFold, entries: list[Entry], embeddings: list[np.ndarray]) -> GatingFold:
        vectors = iter(embeddings)
        for entry in entries:
            event = entry.event
            if isinstance(event, MetagraphEvent):
                if (left := departed(event)).size:
                    state.retire(left)
                continue
            if event.sound:  # one that is broken must not stop the fold for ever
                state.apply(observation(event, next(vectors) if told(event) else None))
        return state


def told(event: Event) -> tuple[Message, ...]:
    """The messages that an event teaches something about."""
    if isinstance(event, ForwardEvent) and event.scored and event.flags & Flag.TRAIN_GATING and event.sound:
        return event.messages
    return ()


def observation(event: ForwardEvent, embedding: np.ndarray | None) -> GatingObservation:
    """What an event says of the asked; ``embedding`` [d] is of what it ``told``, None for nothing."""
    rewards = event.rewards.astype(np.float64)
    return GatingObservation(
        embedding=embedding,
        hotkeys=event.hotkeys,
        rewards=rewards,
        ok=np.isfinite(rewards) if event.scored else event.status == 0,
        latency_s=event.latency_s.astype(np.float64),
        learn=event.scored and bool(event.flags & Flag.TRAIN_GATING),
    )


def departed(event: MetagraphEvent) -> np.ndarray:
    """Digests of the hotkeys that left the subnet, uint64 [n]."""
    gone = [hotkey_digest(change.old) for change in event.changes if change.old]
    # A hotkey that only moved to another uid is still here, and so is what is known of it.
    here = {hotkey_digest(change.new) for change in event.changes if change.new}
    return np.array([digest for digest in gone if digest not in here], dtype=np.uint64)
