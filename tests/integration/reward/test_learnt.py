"""What the stack remembers, as a fold: replicas agree, restarts forget nothing, rewards can be explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from coremesh.events import ForwardEvent
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN
from services.reward.build import build
from services.reward.config import read_config
from services.reward.fold import NAME, StatisticsFold
from services.reward.learnt import signs_of
from services.reward.models import Models
from services.reward.work import Inline
from tests.integration.reward.serving import MINILM, ask, serving, settings
from tests.integration.reward.test_learning import record, version
from tests.unit.reward.test_learnt import CANNED, FACTS
from tests.wait import wait_until

STACK = f"""
[[function]]
type = "relevance"
model = "{MINILM}"

[[mask]]
type = "blacklist"
common = 0.08

[[mask]]
type = "diversity"
model = "{MINILM}"
"""
NEW = "Why is the sky blue?"
SAID = [f"{CANNED} Air scatters blue light.", "The air scatters blue light more than red light.", CANNED]


async def test_the_memory_is_shared_lasting_and_explains(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
):
    loaded = settings(f"--redis.url={redis_url}", stack=STACK, folder=tmp_path)
    async with serving(loaded) as one, serving(loaded) as other:
        fresh = (await one.post("/reward", json=ask(NEW, SAID))).json()
        answers = [
            (await one.post("/reward", json=ask(question, [*facts, CANNED]))).json()
            for question, facts in FACTS.items()
        ]
        for _ in range(26):
            for answer in answers:
                await record(redis_history, answer)
        folded = 26 * len(answers)

        async def both_know() -> bool:
            return [await version(one), await version(other)] == [folded, folded]

        await wait_until(both_know)
        said = [(await c.post("/reward", json=ask(NEW, SAID))).json() for c in (one, other)]
        user = (await one.post("/reward", json=ask(NEW, SAID, kind="inference"))).json()
    assert said[0] == said[1]
    assert fresh["masks"]["phrases"] == fresh["masks"]["history"] == [1.0, 1.0, 1.0]
    assert said[0]["masks"]["phrases"] == [0.0, 1.0, 0.0]
    assert said[0]["masks"]["history"][1] > 0.99
    assert said[0]["masks"]["history"][2] < 0.05
    assert (said[0]["rewards"][0], said[0]["rewards"][2]) == (0.0, 0.0)
    assert said[0]["rewards"][1] == pytest.approx(fresh["rewards"][1]) != 0
    # Users are judged by what is known, and teach nothing.
    assert (user["masks"], user["extra"]) == (said[0]["masks"], {})
    assert 4 * len(said[0]["extra"]) <= 64

    async with serving(loaded) as again:

        async def knows() -> bool:
            return await version(again) == folded

        await wait_until(knows)
        assert (await again.post("/reward", json=ask(NEW, SAID))).json() == said[0]

    # Later, from the history alone: the recorded signatures under the statistics of the recorded version.
    await record(redis_history, said[0])
    stack = build(read_config(tmp_path / "stack.toml"), Models()).stack
    fold = StatisticsFold(stack.version, {}, stack.learnt)
    entries = await redis_history.read(ORIGIN, 1000)
    event = entries[-1].event
    assert isinstance(event, ForwardEvent)
    replayed = await fold.apply(fold.initial(), entries[: event.stats_version])
    for name, mask in stack.learnt.items():
        signs = signs_of(name, mask.columns, event.parts)
        assert signs is not None
        factors = await Inline().run(mask.op, [(row, replayed) for row in signs.tolist()])
        assert factors == said[0]["masks"][name]
    checkpoint = await redis_history.load(NAME)
    assert checkpoint is not None
    assert fold.load(checkpoint.state) == replayed
