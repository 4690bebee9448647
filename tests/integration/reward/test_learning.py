"""Running statistics learnt from the history in a real Redis, led by one replica and served by all."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from coremesh.events import Flag, ForwardEvent, Message, forward_event
from coremesh.history.redis import RedisHistory
from coremesh.types import new_event_id
from services.reward.config import Normalise
from services.reward.fold import NAME, StatisticsFold
from services.reward.statistics import Statistics, normalise
from tests.integration.reward.serving import MINILM, ask, serving, settings
from tests.wait import wait_until

STACK = f"""
[[function]]
type = "relevance"
model = "{MINILM}"
normalise = {{ by = "running", mean = 0.2, deviation = 0.2, prior = 10 }}
"""
RULE = Normalise(by="running", mean=0.2, deviation=0.2, prior=10)
QUESTION = "Why is the sky blue?"
COMPLETIONS = ["The air scatters blue light more than red light.", "Stir the risotto slowly.", ""]


async def record(history: RedisHistory, answer: dict) -> None:
    """What the querier does with an answer."""
    n = len(answer["rewards"])
    parts = {**answer["raw"], **{f"mask:{name}": values for name, values in answer["masks"].items()}}
    parts |= answer["extra"]
    hotkeys = [f"5Hotkey{i}" for i in range(n)]
    event = forward_event(
        id=new_event_id(),
        time_ms=1,
        block=1,
        kind="answer",
        flags=Flag.SCORED,
        messages=(Message("user", QUESTION),),
        uids=list(range(n)),
        hotkeys=hotkeys,
        status=[0] * n,
        latency_s=[0.1] * n,
        rewards=answer["rewards"],
        parts=parts,
        stack_version=answer["stack_version"],
        stats_version=answer["stats_version"],
    )
    await history.append(event, None, hotkeys)


async def version(client: httpx.AsyncClient) -> int:
    return (await client.get("/stack")).json()["stats_version"]


async def test_replicas_agree_restarts_forget_nothing_and_a_reward_can_be_explained(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
):
    loaded = settings(f"--redis.url={redis_url}", stack=STACK, folder=tmp_path)
    async with serving(loaded) as one, serving(loaded) as other:
        first = (await one.post("/reward", json=ask(QUESTION, COMPLETIONS))).json()
        assert first["stats_version"] == 0
        for _ in range(5):
            await record(redis_history, first)

        async def both_know() -> bool:
            return [await version(one), await version(other)] == [5, 5]

        await wait_until(both_know)
        answers = [(await c.post("/reward", json=ask(QUESTION, COMPLETIONS))).json() for c in (one, other)]
        assert answers[0] == answers[1]
        assert answers[0]["normalised"] != first["normalised"]
    async with serving(loaded) as again:

        async def knows() -> bool:
            return await version(again) == 5

        await wait_until(knows)
        assert (await again.post("/reward", json=ask(QUESTION, COMPLETIONS))).json() == answers[0]

    # From the recorded raw values, the history and the version alone; what was recorded says the same.
    await record(redis_history, answers[0])
    fold = StatisticsFold(first["stack_version"], {"relevance": RULE})
    events = await redis_history.read("0-0", 100)  # type: ignore[arg-type]
    recorded = events[-1].event
    assert isinstance(recorded, ForwardEvent)
    replayed = await fold.apply(fold.initial(), events[: recorded.stats_version])
    again = normalise(recorded.parts["relevance"].astype(float), RULE, replayed, "relevance")
    assert again.tolist() == pytest.approx(answers[0]["normalised"]["relevance"], abs=1e-6)
    assert recorded.parts["normalised:relevance"].tolist() == pytest.approx(again.tolist(), abs=1e-6)
    assert recorded.rewards.tolist() == pytest.approx([*again[:2].tolist(), 0.0], abs=1e-6)
    raw = answers[0]["raw"]["relevance"]
    explained = normalise(np.array(raw), RULE, replayed, "relevance")
    assert answers[0]["normalised"]["relevance"] == explained.tolist()
    checkpoint = await redis_history.load(NAME)
    assert checkpoint is not None
    assert fold.load(checkpoint.state) == replayed != Statistics()


async def test_without_redis_it_scores_on(tmp_path: Path):
    loaded = settings("--redis.url=unix:///nowhere/redis.sock", stack=STACK, folder=tmp_path)
    died: list[str] = []
    async with serving(loaded, died) as client:
        answer = await client.post("/reward", json=ask(QUESTION, COMPLETIONS))
        ready = await client.get("/readyz")
    assert answer.status_code == ready.status_code == 200
    assert answer.json()["stats_version"] == 0
    assert died == []


async def test_a_stack_that_learns_nothing_needs_no_redis():
    async with serving(settings("--redis.url=unix:///nowhere/redis.sock")) as client:
        answer = await client.post("/reward", json=ask(QUESTION, COMPLETIONS))
    assert answer.json()["stats_version"] == 0
    assert answer.json()["rewards"][0] == pytest.approx(answer.json()["rewards"][0])
