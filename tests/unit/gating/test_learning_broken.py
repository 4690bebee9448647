"""What gating takes from a history in which events are broken."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from coremesh.events import ForwardEvent
from coremesh.history import Entry
from coremesh.settings import GatingSettings
from coremesh.types import StreamId
from services.gating.fold import GatingFold
from services.gating.learning import GatingLearning
from tests.events import make_event


class Encoder:
    dim = 4
    identity = "lengths"

    async def encode(self, texts: Sequence[str]) -> np.ndarray:
        found = np.array([[np.cos(len(t)), np.sin(len(t)), 0.3, 0.1] for t in texts], dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("column", ["uids_", "hotkeys_", "status_", "latency_", "rewards_"])
async def test_a_broken_event_is_passed_over_and_its_prompt_is_nobody_elses(column: str) -> None:
    learning = GatingLearning(GatingSettings(), Encoder())
    events = [make_event({0: 0.9, 1: 0.1}, question="x" * length) for length in (3, 9, 27)]
    broken = msgspec.structs.replace(events[1], **{column: b"123"})

    async def learnt(given: list[ForwardEvent]) -> GatingFold:
        entries = [Entry(StreamId(f"{at}-0"), event) for at, event in enumerate(given, 1)]
        return await learning.apply(learning.initial(), entries)

    alone, among = await learnt([events[0], events[2]]), await learnt([events[0], broken, events[2]])
    assert alone.learnt == 2
    assert learning.dump(among) == learning.dump(alone)
