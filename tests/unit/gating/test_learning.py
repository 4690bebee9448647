"""Events into a head: what the leader folds, and what it saves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from coremesh.errors import Busy
from coremesh.history.protocol import Entry
from coremesh.settings import GatingSettings
from services.gating.batching import BatchingEncoder
from services.gating.learning import GatingLearning
from tests.events import make_event
from tests.wait import wait_until


class Encoder:
    """Vectors that depend on the text's length."""

    dim = 4
    identity = "by length"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        angles = np.array([len(text) for text in texts])[:, None] * np.array([1.0, 2.0, 3.0, 4.0])
        found = np.cos(angles).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


class Held(Encoder):
    """Encodes once it may."""

    def __init__(self) -> None:
        self.called = False
        self.go = threading.Event()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.called = True
        assert self.go.wait(10)
        return super().encode(texts)


def entries(count: int) -> list[Entry]:
    events = [make_event({0: 0.9, 1: 0.1}, question="x" * (1 + at)) for at in range(count)]
    return [Entry(f"{at}-0", event) for at, event in enumerate(events, 1)]


@pytest.mark.parametrize("rule", ["bayes", "rls", "original", "original_zeroed"])
async def test_a_head_of_any_rule_and_step_size_is_read_again(rule):
    settings = GatingSettings(rule=rule, learning_rate=0.05, momentum=0.5)
    async with BatchingEncoder(Encoder()) as batching:
        learning = GatingLearning(settings, batching)
        state = await learning.apply(learning.initial(), entries(20))
        saved = learning.dump(state)
        again = learning.load(saved)
        assert (again.learnt, learning.dump(again)) == (20, saved)
        both = [learning.dump(await learning.apply(one, entries(25)[20:])) for one in (state, again)]
    assert both[0] == both[1]


async def test_a_history_is_folded_however_short_the_encoders_queue_is():
    settings = GatingSettings(rule="rls")
    async with BatchingEncoder(Encoder()) as batching:
        learning = GatingLearning(settings, batching)
        wanted = learning.dump(await learning.apply(learning.initial(), entries(100)))
    async with BatchingEncoder(Encoder(), max_queued=3, cache_entries=0) as batching:
        with pytest.raises(Busy):
            await batching.encode(["x" * (1 + at) for at in range(100)])
        learning = GatingLearning(settings, batching)
        assert learning.dump(await learning.apply(learning.initial(), entries(100))) == wanted


async def test_callers_that_fill_the_queue_make_the_fold_wait():
    held = Held()
    async with BatchingEncoder(held, max_queued=2, batch_characters=1) as batching:
        learning = GatingLearning(GatingSettings(rule="rls"), batching)
        callers = [asyncio.create_task(batching.encode(["first"]))]
        await wait_until(lambda: held.called)
        callers += [asyncio.create_task(batching.encode([text])) for text in ("second", "third")]
        await wait_until(lambda: batching.queued == 2)
        folding = asyncio.create_task(learning.apply(learning.initial(), entries(5)))
        await asyncio.wait([folding], timeout=0.1)
        assert not folding.done()
        held.go.set()
        assert (await folding).learnt == 5
        await asyncio.gather(*callers)
