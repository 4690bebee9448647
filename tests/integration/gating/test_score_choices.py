"""Siblings, deadlines, ``auto`` and batching through POST /score, with the real encoder and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

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


def one_coldkey(uid: int) -> Neuron:
    """uids 0 to 5 belong to one coldkey, and stand in networks of their own."""
    owner = "one" if uid < 6 else f"c{uid}"
    return Neuron(uid=uid, hotkey=hotkey(uid), coldkey=owner, ip=f"10.0.{uid}.1", port=80)


def one_network(uid: int) -> Neuron:
    """uids 0 to 5 stand in one /24, and have coldkeys of their own; the others' addresses differ in the third byte."""
    place = f"10.9.9.{uid + 1}" if uid < 6 else f"10.9.{uid}.1"
    return Neuron(uid=uid, hotkey=hotkey(uid), coldkey=f"c{uid}", ip=place, port=80)


async def teach(history: RedisHistory, neuron: Callable[[int], Neuron] = one_coldkey) -> None:
    """uids 0 to 5 are siblings and the best; 6 and 7 are nearly as good; 7 takes 8 s; the others are poor."""
    neurons = tuple(neuron(uid) for uid in range(MINERS))
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


@pytest.mark.parametrize("neuron", [one_coldkey, one_network])
async def test_siblings_are_never_all_asked_at_once(
    encoder: CountingEncoder, redis_history: RedisHistory, redis_url: str, neuron: Callable[[int], Neuron]
) -> None:
    await teach(redis_history, neuron)
    async with gating(encoder, redis_url) as client:
        await learnt(client, STEPS)
        expected = (await post(client, text="user: Question?"))["scores"]
        assert min(expected[:6]) > max(expected[6:])  # so nothing but the rule keeps them out
        asked: dict[int | str, list[int]] = {}
        for k in (2, 3, 6, "auto"):
            asked[k] = (await post(client, text="user: Question?", k=k))["chosen"]
            assert asked[k][0] < 6
        siblings = {k: len([uid for uid in chosen if uid < 6]) for k, chosen in asked.items()}
        assert (siblings[2], siblings[3], siblings[6]) == (1, 1, 2)  # a third of the places, at least one
        assert siblings["auto"] <= 2
        assert set(asked[6]) > {6, 7}


async def test_deadlines_and_auto(
    encoder: CountingEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await teach(redis_history)
    async with gating(encoder, redis_url, "--gating.k_max=5") as client:
        await learnt(client, STEPS)
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
