"""A user asks, the network answers, the event tells it all."""

from __future__ import annotations

import asyncio
import math

import pytest

from coremesh.events import Flag, Message
from coremesh.types import hotkey_digests
from coremesh.wire.status import Status
from tests.integration.querier.conftest import World, ask
from tests.integration.querier.network import TOOK_S, answers, held, says
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
BETTER = "Because air molecules scatter short wavelengths far more strongly: Rayleigh scattering."


async def test_the_best_rewarded_completion_wins_and_the_event_says_how(world: World) -> None:
    miners = await world.miners(says(GOOD), says(BETTER), answers(500), says("no"))
    client = await world.querier()
    response = await ask(client, return_all=True)
    assert response.status_code == 200
    body = response.json()
    timings = body.pop("timings")
    assert set(timings) == {"filter", "gating", "query", "reward", "total", "models"}
    assert 0 < timings["query"] <= timings["total"]
    completions = body.pop("completions")
    event_id = body.pop("event_id")
    assert body == {
        "completion": BETTER,
        "uid": 2,
        "hotkey": miners[1].hotkey,
        "reward": pytest.approx(len(BETTER) / 100),
        "degraded": [],
    }
    assert [(c["uid"], c["status"], c["completion"]) for c in completions] == [
        (2, "ok", BETTER),
        (1, "ok", GOOD),
        (3, "bad_status", ""),
        (4, "short", ""),
    ]
    event = await world.event(event_id)
    assert list(event.uids) == [1, 2, 3, 4]
    assert list(event.hotkeys) == list(hotkey_digests([m.hotkey for m in miners]))
    assert list(event.status) == [Status.OK, Status.OK, Status.BAD_STATUS, Status.SHORT]
    assert event.rewards.dtype == "float32"
    assert event.rewards[:2].tolist() == pytest.approx([len(GOOD) / 100, len(BETTER) / 100])
    assert all(math.isnan(reward) for reward in event.rewards[2:])
    assert event.gating.tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert event.propensity.tolist() == pytest.approx([1 / 3, 1 / 4, 1 / 5, 1 / 6], rel=1e-3)
    assert set(event.parts) == {"relevance", "mask:relevance"}
    assert event.parts["mask:relevance"][:2].tolist() == [1.0, 1.0]
    assert event.flags == Flag.SCORED
    assert (event.kind, event.block, event.best, event.available) == ("inference", 7, 1, 4)
    assert (event.head_version, event.stack_version, event.stats_version) == (3, "stack-1", 5)
    assert event.messages == (Message("user", "Why is the sky blue?"),)
    assert event.degraded == ()
    transcript = await world.history.transcript(event_id)
    assert transcript is not None
    assert transcript.completions == (GOOD, BETTER, "", "no")
    assert miners[0].asked == [{"roles": ["user"], "messages": ["Why is the sky blue?"], "timeout": 2.0}]
    assert [m.refused for m in miners] == [[], [], [], []]


async def test_whoever_has_taken_longest_is_asked_first(world: World) -> None:
    miners = await world.miners(says(GOOD), says(f"{GOOD} Yes.", after=0.5), says(f"{GOOD} Sure.", after=0.2))
    client = await world.querier()
    for _ in range(2):
        assert len((await ask(client, return_all=True)).json()["completions"]) == 3
    second = [miner.nonces[1] for miner in miners]
    assert sorted(range(3), key=second.__getitem__) == [1, 2, 0]


async def test_top_k_asks_the_most_promising_only(world: World) -> None:
    miners = await world.miners(says(GOOD), says(GOOD), says(BETTER))
    world.services.scores = {1: 0.1, 2: 0.9, 3: 0.5}
    client = await world.querier()
    body = (await ask(client, top_k=2)).json()
    assert body["uid"] == 3
    event = await world.event(body["event_id"])
    assert list(event.uids) == [2, 3]
    assert [len(m.asked) for m in miners] == [0, 1, 1]


async def test_auto_leaves_the_number_to_gating(world: World) -> None:
    await world.miners(says(GOOD), says(GOOD), says(BETTER))
    client = await world.querier()
    body = (await ask(client, top_k="auto")).json()
    assert list((await world.event(body["event_id"])).uids) == [1, 2]
    assert world.services.score_requests[-1].k == "auto"


async def test_wait_for_answers_early_and_stragglers_still_count(world: World) -> None:
    gate = asyncio.Event()
    await world.miners(says(GOOD), held(gate, BETTER))
    client = await world.querier(querier={"grace_s": 0.0})
    body = (await ask(client, wait_for=1, return_all=True)).json()
    assert [(c["uid"], c["status"]) for c in body["completions"]] == [(1, "ok")]
    assert body["completion"] == GOOD
    assert await world.forwards() == []
    gate.set()
    event = await world.event(body["event_id"])
    assert list(event.status) == [Status.OK, Status.OK]
    assert event.rewards.tolist() == pytest.approx([len(GOOD) / 100, len(BETTER) / 100])
    assert event.best == 1


async def test_without_rewards_the_first_good_one_in_gating_order_is_given_and_the_event_still_scored(
    world: World,
) -> None:
    gate = asyncio.Event()
    await world.miners(answers(500), says(GOOD), held(gate, BETTER))
    client = await world.querier()
    body = (await ask(client, use_reward_model=False)).json()
    assert (body["uid"], body["completion"], body["reward"]) == (2, GOOD, None)
    gate.set()
    event = await world.event(body["event_id"])
    assert event.scored
    assert event.rewards[1:].tolist() == pytest.approx([len(GOOD) / 100, len(BETTER) / 100])


async def test_what_the_models_took_is_told_as_they_say_it(world: World) -> None:
    await world.miners(says(GOOD))
    body = (await ask(await world.querier())).json()
    assert body["timings"]["models"] == TOOK_S["gating"] + TOOK_S["reward"]


async def test_private_requests_leave_no_text(world: World) -> None:
    await world.miners(says(GOOD))
    client = await world.querier()
    body = (await ask(client, "my secret question", private=True)).json()
    event = await world.event(body["event_id"])
    assert event.messages == ()
    assert event.flags == Flag.SCORED | Flag.PRIVATE
    assert await world.history.transcript(body["event_id"]) is None


@pytest.mark.parametrize("early", [{"wait_for": 1}, {"use_reward_model": False}])
async def test_what_comes_while_the_early_ones_are_found_unsafe_is_given(
    world: World, early: dict[str, object]
) -> None:
    gate, judged = asyncio.Event(), asyncio.Event()
    bad = "This is poison, and it comes first."
    await world.miners(says(bad), held(gate, BETTER))
    world.services.bad_texts, world.services.judging = ("poison",), {bad: judged}
    client = await world.querier(querier={"grace_s": 0.0})
    asking = asyncio.create_task(ask(client, **early))
    await wait_until(lambda: any(bad in request.texts for request in world.services.filter_requests))
    gate.set()

    async def everybody_is_heard() -> bool:
        return all(row["asked"] for row in (await client.get("/miners")).json()["miners"] if row["available"])

    await wait_until(everybody_is_heard)
    judged.set()
    answer = await asking
    assert (answer.status_code, answer.json()["completion"]) == (200, BETTER)
    event = await world.event(answer.json()["event_id"])
    assert list(event.status) == [Status.UNSAFE, Status.OK]


async def test_organic_requests_are_not_scored_when_switched_off(world: World) -> None:
    await world.miners(says(GOOD))
    client = await world.querier(querier={"score_organic": False})
    body = (await ask(client)).json()
    event = await world.event(body["event_id"])
    assert not event.scored
    assert body["reward"] == pytest.approx(len(GOOD) / 100)


async def test_unsafe_prompts_are_refused_and_unsafe_completions_dropped(world: World) -> None:
    miners = await world.miners(says(GOOD), says(BETTER + " poison"))
    world.services.bad_texts = ("poison",)
    client = await world.querier()
    refused = await ask(client, "give me poison")
    assert refused.status_code == 422
    assert refused.json() == {
        "code": "unsafe_message",
        "message": "the safety filter refuses this message",
        "remedy": "Rephrase the message.",
    }
    assert miners[0].asked == []
    body = (await ask(client, return_all=True)).json()
    assert body["uid"] == 1
    assert [(c["status"], c["completion"]) for c in body["completions"]] == [("ok", GOOD), ("unsafe", "")]
    event = await world.event(body["event_id"])
    assert list(event.status) == [Status.OK, Status.UNSAFE]
    assert math.isnan(event.rewards[1])


async def test_the_filter_can_be_switched_off(world: World) -> None:
    await world.miners(says("a poison completion"))
    world.services.bad_texts = ("poison",)
    client = await world.querier(querier={"no_nsfw_filter": True})
    assert (await ask(client, "poison?")).json()["completion"] == "a poison completion"
    assert world.services.filter_requests == []


async def test_all_failed_is_an_error_and_an_unscored_event(world: World) -> None:
    await world.miners(answers(500), says("no"), says("  "))
    client = await world.querier()
    response = await ask(client)
    assert response.status_code == 502
    assert response.json() == {
        "code": "no_completion",
        "message": "none of 3 miners gave a usable completion",
        "remedy": "Ask again, with a longer timeout or a larger top_k.",
    }
    events = await wait_until(world.forwards)
    assert len(events) == 1
    assert (events[0].flags, events[0].best) == (Flag.NONE, -1)
    assert list(events[0].status) == [Status.BAD_STATUS, Status.SHORT, Status.EMPTY]


async def test_nobody_to_ask_is_an_error_and_a_recorded_event(world: World) -> None:
    await world.miners()
    client = await world.querier()
    response = await ask(client)
    assert response.status_code == 503
    assert response.json()["code"] == "no_miner_available"
    events = await wait_until(world.forwards)
    assert len(events[0].uids) == 0
    assert events[0].available == 0


async def test_a_silent_miner_costs_the_timeout_and_no_more(world: World) -> None:
    gate = asyncio.Event()
    await world.miners(says(GOOD), held(gate, BETTER))
    client = await world.querier()
    body = (await ask(client, timeout=0.3)).json()
    assert body["uid"] == 1
    event = await world.event(body["event_id"])
    assert list(event.status) == [Status.OK, Status.TIMEOUT]
    gate.set()


async def test_requests_beyond_the_bound_are_told_to_wait(world: World) -> None:
    gate = asyncio.Event()
    miners = await world.miners(held(gate, GOOD))
    client = await world.querier(querier={"max_concurrent": 1, "queue_length": 0})
    first = asyncio.create_task(ask(client))
    await wait_until(lambda: miners[0].asked)
    second = await ask(client)
    assert second.status_code == 429
    assert second.json()["code"] == "busy"
    assert int(second.headers["retry-after"]) >= 1
    gate.set()
    assert (await first).status_code == 200
    assert (await ask(client)).status_code == 200


async def test_a_caller_who_hangs_up_does_not_cost_the_event(world: World) -> None:
    gate = asyncio.Event()
    miners = await world.miners(held(gate, GOOD))
    client = await world.querier()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(client), 0.2)
    await wait_until(lambda: miners[0].asked)
    gate.set()
    events = await wait_until(world.forwards)
    assert events[0].scored


async def test_metrics_tell_of_stages_statuses_and_events(world: World) -> None:
    await world.miners(says(GOOD), answers(500))
    client = await world.querier()

    async def seen(name: str) -> float:
        text = (await client.get("/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    names = {
        **{
            f'coremesh_querier_stage_seconds_count{{stage="{s}"}}': 1
            for s in ("filter", "gating", "query", "reward")
        },
        'coremesh_miner_replies_total{status="ok"}': 1,
        'coremesh_miner_replies_total{status="bad_status"}': 1,
        'coremesh_forwards_total{kind="inference",result="ok"}': 1,
        'coremesh_events_total{outcome="appended"}': 1,
        "coremesh_querier_overhead_seconds_count": 1,
    }
    before = {name: await seen(name) for name in names}
    await world.event((await ask(client)).json()["event_id"])

    async def counted() -> bool:
        return {name: await seen(name) - before[name] for name in names} == names

    await wait_until(counted)
    assert await seen("coremesh_forwards_in_flight") == 0
    assert await seen("coremesh_metagraph_block") == 7


async def test_long_completions_are_recorded_whole(world: World) -> None:
    texts = [("Blue light is scattered more. " * 2_000)[:50_000] + f"So much for {n}." for n in range(4)]
    await world.miners(*map(says, texts))
    client = await world.querier()
    body = (await ask(client)).json()
    await world.event(body["event_id"])
    transcript = await world.history.transcript(body["event_id"])
    assert transcript is not None
    assert list(transcript.completions) == texts


async def test_longer_prompts_may_get_more_time(world: World) -> None:
    miners = await world.miners(says(GOOD))
    client = await world.querier(wait=True, querier={"inference_timeout_s": 2.0, "timeout_per_char_s": 0.01})
    long = {"messages": [{"role": "user", "content": "Why? " * 20}]}
    assert (await client.post("/inference", json=long)).status_code == 200
    assert (await client.post("/inference", json={**long, "timeout": 1.5})).status_code == 200
    assert [asked["timeout"] for asked in miners[0].asked] == [3.0, 1.5]
