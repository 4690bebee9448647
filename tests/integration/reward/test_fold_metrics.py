"""What the reward service says of the fold of its running statistics: the same as other services of theirs."""

from __future__ import annotations

import re
from pathlib import Path

from coremesh.history.redis import RedisHistory
from coremesh.types import stream_key
from tests.integration.reward.serving import ask, serving, settings
from tests.integration.reward.test_learning import COMPLETIONS, QUESTION, STACK, record
from tests.wait import wait_until

FOLD = "reward:stats"


async def test_place_version_and_leader_are_shown(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
) -> None:
    loaded = settings(f"--redis.url={redis_url}", stack=STACK, folder=tmp_path)
    async with serving(loaded) as client:
        answer = (await client.post("/reward", json=ask(QUESTION, COMPLETIONS))).json()
        await record(redis_history, answer)
        newest = stream_key(await redis_history.last_id())[0] / 1000

        async def shown() -> dict[str, float]:
            text = (await client.get("/metrics")).text
            return {
                name: float(value)
                for name, value in re.findall(rf'coremesh_fold_(\w+){{fold="{FOLD}"}} (\S+)', text)
            }

        async def folded() -> bool:
            found = await shown()
            return found.get("event_timestamp_seconds") == newest and found["version"] >= 1

        await wait_until(folded)
        assert await shown() == {
            "leading": 1.0,
            "gaps": 0.0,
            "version": (await shown())["version"],
            "event_timestamp_seconds": newest,
        }
