"""The gating service on a real Redis and the real sentence encoder: it learns, forgets, replicates, refuses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph, Neuron, difference
from coremesh.modelfiles import MINILM, resolve_model
from coremesh.service import Health, Loops
from coremesh.settings import ALL_SECTIONS, GatingSettings, load
from services.gating.app import create_gating_app
from services.gating.encoder import SentenceEncoder
from services.gating.generation import FOLD, ROLE
from tests.events import hotkey, make_event
from tests.wait import wait_until

CORPUS = Path(__file__).parents[3] / "devnet" / "corpus"


def questions(topic: str) -> list[str]:
    lines = (CORPUS / f"{topic}.jsonl").read_text().splitlines()
    return [json.loads(line)["question"] for line in lines]


SPACE, MUSIC = questions("astronomy"), questions("music")
KNOWN = 32
"""So many of each topic are in the history; the others were never asked."""
STEPS = 2 * KNOWN


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(resolve_model(MINILM))


@asynccontextmanager
async def gating(encoder: SentenceEncoder, redis_url: str, *flags: str) -> AsyncIterator[httpx.AsyncClient]:
    words = [f"--redis.url={redis_url}", "--gating.save_s=0", "--gating.explore=0", "--gating.follow_s=0.05"]
    settings = load(ALL_SECTIONS, [*words, *flags])
    deaths: list[str] = []
    loops, health = Loops(lambda name, error: deaths.append(name)), Health()
    app = create_gating_app(settings, encoder, loops, health)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x") as client,
    ):
        yield client
    assert deaths == []


def metagraph(hotkeys: list[str], block: int = 1) -> Metagraph:
    neurons = tuple(
        Neuron(uid=uid, hotkey=name, coldkey=f"cold-{name}", ip=f"10.0.{uid}.1", port=80)
        for uid, name in enumerate(hotkeys)
    )
    return Metagraph(netuid=1, block=block, time_ms=1, neurons=neurons)


async def publish(history: RedisHistory, new: Metagraph, old: Metagraph | None = None) -> None:
    lease = await history.acquire("weights", "test", timedelta(seconds=60))
    assert lease is not None
    await history.publish(new, difference(old, new), lease)


async def post(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/score", json=body)
    assert answer.status_code == 200, answer.text
    assert float(answer.headers["coremesh-took"]) > 0
    return answer.json()


async def teach(history: RedisHistory, start: int = 0, count: int = KNOWN) -> None:
    """uid 0 knows space, uid 1 music, uid 2 a little of both, uid 3 never answers."""
    for space, music in zip(SPACE[start : start + count], MUSIC[start : start + count], strict=True):
        for question, knows, other in ((space, 0, 1), (music, 1, 0)):
            rewards = {knows: 0.9, other: 0.1, 2: 0.5, 3: None}
            await history.append(make_event(rewards, question=question), None, [hotkey(u) for u in range(4)])


async def learnt(client: httpx.AsyncClient, steps: int) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        head = (await client.get("/head")).json()
        return head if head["steps"] >= steps else None

    return await wait_until(look, timeout=60, why=f"{steps} steps learnt")


async def led(client: httpx.AsyncClient) -> dict[str, float]:
    """Gating's folds that are shown, and whether this process leads them: what FoldWithoutLeader looks at."""
    text = (await client.get("/metrics")).text
    found = re.findall(r'coremesh_fold_leading{fold="(gating:[^"]+)"} (\S+)', text)
    return {fold: float(value) for fold, value in found}


async def test_a_fold_that_nobody_is_to_lead_alarms_nobody(
    encoder: SentenceEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await publish(redis_history, metagraph([hotkey(u) for u in range(4)]))
    await teach(redis_history)
    async with gating(encoder, redis_url) as client:
        await learnt(client, STEPS)

        async def alone() -> bool:
            return await led(client) == {"gating:head": 1.0}

        await wait_until(alone)
    async with gating(encoder, redis_url) as client, gating(encoder, redis_url, "--gating.rule=rls") as other:

        async def beside() -> bool:
            return (await led(other)).get("gating:head:next") == 1.0

        await wait_until(beside, why="another generation grows up beside the serving one")


async def test_it_learns_whom_to_ask(
    encoder: SentenceEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await publish(redis_history, metagraph([hotkey(u) for u in range(4)]))
    await teach(redis_history)
    async with gating(encoder, redis_url) as client:
        head = await learnt(client, STEPS)
        assert (head["rule"], head["leading"], head["hotkeys"]) == ("bayes", True, 4)
        for unseen, knows, other in ((SPACE[KNOWN:], 0, 1), (MUSIC[KNOWN:], 1, 0)):
            for question in unseen:
                found = await post(client, text=f"user: {question}", k=2)
                scores = dict(zip(found["uids"], found["scores"], strict=True))
                assert found["chosen"] == [knows, 2], (question, scores)
                assert scores[knows] > scores[2] > scores[other] > scores[3]
                assert found["head_version"] == head["version"]
        asked = await post(client, messages=[{"role": "user", "content": MUSIC[-1]}], uids=[3, 1], k=5)
        assert sorted(asked["uids"]) == [1, 3]
        assert asked["chosen"] == [1, 3]
        sampled = await post(client, text="user: anything", k=3, random=True)
        assert len(set(sampled["chosen"])) == 3
        assert len(sampled["propensities"]) == 3
        auto = await post(client, text=f"user: {SPACE[-1]}", k="auto")
        assert auto["chosen"][0] == 0


async def test_a_replaced_hotkey_starts_again_and_others_stay(
    encoder: SentenceEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    old = metagraph([hotkey(u) for u in range(4)])
    await publish(redis_history, old)
    await teach(redis_history)
    async with gating(encoder, redis_url) as client:
        head = await learnt(client, STEPS)
        before = await post(client, text=f"user: {SPACE[-1]}")
        new = metagraph([hotkey(0), hotkey(1), "5Newcomer", hotkey(3)], block=2)
        await publish(redis_history, new, old)

        async def retired() -> bool:
            now = (await client.get("/head")).json()
            answer = await post(client, text=f"user: {SPACE[-1]}")
            return now["version"] > head["version"] and answer["block"] == 2

        await wait_until(retired)
        assert (await client.get("/head")).json()["hotkeys"] == 3
        after = await post(client, text=f"user: {SPACE[-1]}")
        assert after["scores"][2] != before["scores"][2]
        for uid in (0, 1, 3):
            assert after["scores"][uid] == pytest.approx(before["scores"][uid], rel=1e-9)


async def test_what_was_learnt_survives_a_restart(
    encoder: SentenceEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await publish(redis_history, metagraph([hotkey(u) for u in range(4)]))
    await teach(redis_history, count=8)
    async with gating(encoder, redis_url) as client:
        first = await learnt(client, 16)
        scores = await post(client, text="user: What is a quasar?")
    async with gating(encoder, redis_url) as client:
        again = await learnt(client, 16)
        assert again["version"] == first["version"]
        assert (await post(client, text="user: What is a quasar?"))["scores"] == pytest.approx(
            scores["scores"], rel=1e-9
        )


async def test_a_replica_serves_what_the_leader_learnt_and_takes_over(
    encoder: SentenceEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await publish(redis_history, metagraph([hotkey(u) for u in range(4)]))
    async with gating(encoder, redis_url) as replica:
        async with gating(encoder, redis_url) as other:
            await teach(redis_history, count=4)
            heads = await asyncio.gather(learnt(replica, 8), learnt(other, 8))
            assert sorted(head["leading"] for head in heads) == [False, True]
            assert heads[0]["leader"] == heads[1]["leader"]
            one, two = await asyncio.gather(*(post(c, text="user: stars") for c in (replica, other)))
            assert one == two
        await teach(redis_history, start=4, count=4)
        head = await learnt(replica, 16)
        assert head["leading"]


async def test_while_nobody_folds_a_replica_serves_the_newest_head_that_is_published(
    encoder: SentenceEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await publish(redis_history, metagraph([hotkey(u) for u in range(4)]))
    await teach(redis_history, count=4)
    async with gating(encoder, redis_url) as leader:
        head = await learnt(leader, 8)
        told = await post(leader, text="user: stars")
    lease = await wait_until(lambda: redis_history.acquire(ROLE, "one that hangs", timedelta(seconds=60)))
    async with gating(encoder, redis_url) as replica:
        served = await learnt(replica, 8)
        assert (served["leading"], served["version"]) == (False, head["version"])
        assert await post(replica, text="user: stars") == told
        checkpoint = await redis_history.load(FOLD)
        assert checkpoint is not None
        version = (await redis_history.save(FOLD, checkpoint, lease, checkpoint.last_id)).version
        assert version > head["version"]

        async def newest() -> bool:
            return (await post(replica, text="user: stars"))["head_version"] == version

        await wait_until(newest)


def test_by_default_replicas_look_for_a_newer_head_more_than_once_a_second() -> None:
    assert load(ALL_SECTIONS, [])[GatingSettings].follow_s < 1


async def test_another_rule_learns_anew_from_the_history(
    encoder: SentenceEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await publish(redis_history, metagraph([hotkey(u) for u in range(4)]))
    await teach(redis_history, count=4)
    async with gating(encoder, redis_url) as client:
        assert (await learnt(client, 8))["rule"] == "bayes"
    for rule in ("original", "original_zeroed", "rls"):
        async with gating(encoder, redis_url, f"--gating.rule={rule}") as client:
            head = await learnt(client, 8)
            assert (head["rule"], head["steps"]) == (rule, 8)

            async def served(client: httpx.AsyncClient = client) -> bool:
                # The new generation takes over meanwhile, under a version of its own.
                answer = await post(client, text="user: stars", k=1)
                return answer["head_version"] == (await client.get("/head")).json()["version"] > 0

            await wait_until(served, why="what /head tells is what /score serves")


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({}, "bad_request", "give either text or messages"),
        ({"text": "x", "messages": [{"role": "user", "content": "x"}]}, "bad_request", "give either"),
        ({"text": " \n"}, "bad_messages", "the prompt is empty"),
        ({"text": "x" * 200_001}, "too_long", "200001 characters"),
        ({"text": "x", "k": 0}, "bad_request", "k is 0"),
        ({"text": "x", "k": "many"}, "bad_request", "k"),
        ({"text": "x", "uids": [9]}, "bad_uid", "there is no uid 9: the subnet has 2"),
        ({"text": "x", "uids": [-1]}, "bad_uid", "there is no uid -1"),
        ({"text": "x", "deadline_s": -1}, "bad_request", "deadline_s"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "bad_request", "messages.0.role"),
        ({"text": "x", "kk": 3}, "bad_request", "kk"),
    ],
)
async def test_bad_requests_are_refused_clearly(
    encoder: SentenceEncoder,
    redis_history: RedisHistory,
    redis_url: str,
    body: dict[str, Any],
    code: str,
    says: str,
) -> None:
    await publish(redis_history, metagraph([hotkey(0), hotkey(1)]))
    async with gating(encoder, redis_url) as client:

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await wait_until(ready)
        answer = await client.post("/score", json=body)
        assert 400 <= answer.status_code < 500
        assert answer.json()["code"] == code
        assert says in answer.json()["message"]


async def test_without_a_metagraph_it_is_not_ready_and_says_so(
    encoder: SentenceEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    async with gating(encoder, redis_url) as client:
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["metagraph"]) == (
            503,
            "no metagraph has been published yet",
        )
        answer = await client.post("/score", json={"text": "x"})
        assert (answer.status_code, answer.json()["code"]) == (503, "no_miner_available")


async def test_the_mesh_token_is_needed(
    encoder: SentenceEncoder, redis_history: RedisHistory, redis_url: str
) -> None:
    await publish(redis_history, metagraph([hotkey(0), hotkey(1)]))
    async with gating(encoder, redis_url, "--mesh.token=secret") as client:
        assert (await client.post("/score", json={"text": "x"})).status_code == 401
        assert (await client.get("/head")).status_code == 401
        assert (await client.get("/head", headers={"authorization": "Bearer secret"})).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
