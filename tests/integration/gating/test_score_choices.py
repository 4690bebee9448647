"""Siblings, deadlines, ``auto`` and batching through POST /score, with the real encoder and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from coremesh.events import Flag, Message, forward_event
from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph, Neuron
from coremesh.modelfiles import MINILM, resolve_model
from coremesh.types import new_event_id
from services.gating.encoder import SentenceEncoder
from tests.events import hotkey
from tests.integration.gating.test_gating_service import gating, learnt, post, publish

MINERS, STEPS = 12, 40


class CountingEncoder(SentenceEncoder):
    """Counts how often the model was asked."""

    calls = 0

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += 1
        return super().encode(texts)


@pytest.fixture(scope="module")
def encoder() -> CountingEncoder:
    return CountingEncoder(resolve_model(MINILM))


async def teach(history: RedisHistory) -> None:
    """uids 0 to 5 share a coldkey and are the best; 6 and 7 are nearly as good; 7 takes 8 s; the others are poor."""
    neurons = tuple(
        Neuron(uid=u, hotkey=hotkey(u), coldkey="one" if u < 6 else f"c{u}", ip=f"10.0.{u}.1", port=80)
        for u in range(MINERS)
    )
    await publish(history, Metagraph(netuid=1, block=1, time_ms=1, neurons=neurons))
    rng = np.random.default_rng(0)
    worth = np.array([0.9] * 6 + [0.8] * 2 + [0.1] * 4)
    for step in range(STEPS):
        event = forward_event(
            id=new_event_id(),
            time_ms=1,
            block=1,
            kind="answer",
            flags=Flag.SCORED | Flag.TRAIN_GATING,
            messages=(Message("user", f"Question {step}?"),),
            uids=range(MINERS),
            hotkeys=[hotkey(u) for u in range(MINERS)],
            status=[0] * MINERS,
            latency_s=[8.0 if u == 7 else 0.2 for u in range(MINERS)],
            rewards=worth + rng.normal(0, 0.02, MINERS),
            available=MINERS,
        )
        await history.append(event, None, [hotkey(u) for u in range(MINERS)])


async def test_siblings_deadlines_and_auto(
    encoder: CountingEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await teach(redis_history)
    async with gating(encoder, redis_url, "--gating.k_max=5") as client:
        await learnt(client, STEPS)
        six = (await post(client, text="user: Question?", k=6))["chosen"]
        assert len([uid for uid in six if uid < 6]) == 2  # a third of the places, while there are others
        assert {6, 7} <= set(six)
        alone = (await post(client, text="user: Question?", k=4, uids=[0, 1, 2, 3]))["chosen"]
        assert sorted(alone) == [0, 1, 2, 3]
        patient = await post(client, text="user: Question?", k=3, uids=[6, 7, 8, 9], deadline_s=60)
        hasty = await post(client, text="user: Question?", k=3, uids=[6, 7, 8, 9], deadline_s=1)
        assert set(patient["chosen"][:2]) == {6, 7}
        assert hasty["chosen"][0] == 6
        assert 7 not in hasty["chosen"]
        auto = (await post(client, text="user: Question?", k="auto"))["chosen"]
        assert 1 <= len(auto) <= 5
        assert auto[0] < 6


async def test_256_prompts_at_once_share_batches(
    encoder: CountingEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await teach(redis_history)
    async with gating(encoder, redis_url) as client:
        await learnt(client, STEPS)
        before = encoder.calls
        answers = await asyncio.gather(*(post(client, text=f"user: Prompt {n}?", k=2) for n in range(256)))
        assert {len(answer["chosen"]) for answer in answers} == {2}
        assert encoder.calls - before <= 32
