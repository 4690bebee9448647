"""Parts of the mesh are missing: users still get answers, events still get recorded, once."""

from __future__ import annotations

import asyncio

import pytest

from coremesh.events import Flag
from coremesh.history.redis import RedisHistory
from tests.integration.querier.conftest import World, ask, gathered
from tests.integration.querier.network import answers, held, says
from tests.redis_server import RedisServer
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."
BETTER = "Because air molecules scatter short wavelengths far more strongly: Rayleigh scattering."


async def test_without_gating_the_highest_moving_scores_are_asked(world: World) -> None:
    miners = await world.miners(says(GOOD), says(GOOD), says(GOOD))
    world.services.down = {"gating"}
    world.services.moving = {miners[0].hotkey: 0.1, miners[1].hotkey: 0.9, miners[2].hotkey: 0.5}
    client = await world.querier()
    body = (await ask(client, top_k=2)).json()
    assert body["degraded"] == ["gating"]
    event = await world.event(body["event_id"])
    assert list(event.uids) == [2, 3]
    assert (len(event.gating), event.head_version, event.degraded) == (0, 0, ("gating",))
    assert event.scored


async def test_without_gating_and_scores_miners_are_drawn_at_random(world: World) -> None:
    await world.miners(*[says(GOOD)] * 4)
    world.services.down = {"gating", "weights"}
    client = await world.querier()
    asked = [int((await ask(client, top_k=1)).json()["uid"]) for _ in range(24)]
    assert len(set(asked)) > 1
    event = (await wait_until(world.forwards))[0]
    assert event.flags & Flag.RANDOM_SAMPLE
    assert event.propensity.tolist() == [0.25]


async def test_slow_gating_is_not_waited_for(world: World) -> None:
    await world.miners(says(GOOD))
    world.services.delay_s = {"gating": 5.0}
    client = await world.querier(querier={"gating_timeout_s": 0.2})
    body = (await ask(client)).json()
    assert (body["completion"], body["degraded"]) == (GOOD, ["gating"])
    assert body["timings"]["total"] < 2.0


async def test_without_reward_the_first_good_one_in_gating_order_is_given_and_the_event_is_unscored(
    world: World,
) -> None:
    await world.miners(answers(500), says(GOOD), says(BETTER))
    world.services.down = {"reward", "filter"}
    client = await world.querier()
    body = (await ask(client)).json()
    assert (body["uid"], body["reward"], body["degraded"]) == (2, None, ["filter", "reward"])
    event = await world.event(body["event_id"])
    assert (event.flags, event.stack_version, event.best) == (Flag.NONE, "", 1)
    assert event.degraded == ("filter", "reward")


async def test_slow_rewards_are_not_waited_for(world: World) -> None:
    await world.miners(says(GOOD), says(BETTER))
    world.services.delay_s = {"reward": 20.0}
    client = await world.querier(querier={"reward_timeout_s": 0.2})
    body = (await ask(client)).json()
    assert (body["completion"], body["degraded"]) == (GOOD, ["reward"])
    assert body["timings"]["total"] < 5.0
    assert not (await world.event(body["event_id"])).scored


async def test_with_no_reward_model_at_all_gating_scores_are_the_rewards(world: World) -> None:
    await world.miners(says(GOOD), says(BETTER))
    world.services.scores = {1: 0.25, 2: 0.5}
    client = await world.querier(querier={"use_reward_model": False})
    body = (await ask(client)).json()
    assert (body["uid"], body["reward"], body["degraded"]) == (2, 0.5, [])
    event = await world.event(body["event_id"])
    assert event.scored
    assert event.rewards.tolist() == [0.5, 0.25]
    assert event.stack_version == "gating"
    assert world.services.reward_requests == []


async def test_redis_dies_users_are_served_and_events_arrive_once(
    world: World, own_redis: RedisServer
) -> None:
    first = world.history
    world.history, world.redis_url = RedisHistory(own_redis.url, 1), own_redis.url
    try:
        miners = await world.miners(says(GOOD), says(BETTER))
        client = await world.querier()
        ids = [(await ask(client)).json()["event_id"]]
        await world.event(ids[0])
        own_redis.kill()
        bodies = [r.json() for r in await gathered(*(ask(client) for _ in range(5)))]
        assert [body["completion"] for body in bodies] == [BETTER] * 5
        ids += [body["event_id"] for body in bodies]
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["redis"] != "ok"
        assert ready.json()["checks"]["metagraph"] == "ok"
        assert (await client.get("/history")).json()["code"] == "history_unavailable"
        own_redis.start()
        for event_id in ids:
            assert (await world.event(event_id)).scored
        assert sorted(event.id for event in await world.forwards()) == sorted(ids)
        assert len(miners[0].asked) == 6

        async def ready_again() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await wait_until(ready_again)
    finally:
        await world.history.close()
        world.history = first


async def test_no_redis_from_the_start_is_said_clearly(world: World) -> None:
    client = await world.querier(redis_url="redis://127.3.0.1:1/0", wait=False)
    response = await ask(client)
    assert (response.status_code, response.json()["code"]) == (503, "no_miner_available")
    checks = (await client.get("/readyz")).json()["checks"]
    assert checks["metagraph"] == "no metagraph was published yet"


async def test_a_stale_metagraph_is_not_ready(world: World) -> None:
    await world.miners(says(GOOD))
    client = await world.querier(querier={"max_metagraph_age_s": 0.001})
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert "s old" in response.json()["checks"]["metagraph"]


async def test_a_new_metagraph_is_taken_up(world: World) -> None:
    await world.miners(says(GOOD))
    client = await world.querier()
    miners = await world.miners(says(GOOD), says(BETTER))

    async def answered_by_two() -> bool:
        return (await ask(client)).json()["uid"] == 2

    await wait_until(answered_by_two)
    rows = (await client.get("/miners")).json()
    assert rows["available"] == 2
    assert [row["hotkey"] for row in rows["miners"] if row["available"]] == [m.hotkey for m in miners]
    assert rows["miners"][2]["last_status"] == "ok"


async def test_stopping_finishes_what_is_in_flight(world: World) -> None:
    gate = asyncio.Event()
    miners = await world.miners(says(GOOD), held(gate, BETTER))
    client = await world.querier(querier={"grace_s": 0.0})
    body = (await ask(client, wait_for=1, timeout=20)).json()
    await wait_until(lambda: miners[1].asked)
    stopping = asyncio.create_task(world.stop_querier())
    gate.set()
    await stopping
    event = await world.event(body["event_id"])
    assert event.rewards.tolist() == pytest.approx([len(GOOD) / 100, len(BETTER) / 100])


async def test_stopping_does_not_wait_for_miners_for_ever_nor_charge_them(world: World) -> None:
    gate = asyncio.Event()
    miners = await world.miners(says(GOOD), held(gate, BETTER))
    client = await world.querier(querier={"grace_s": 0.0}, http={"drain_s": 0.2})
    body = (await ask(client, wait_for=1, timeout=50)).json()
    await wait_until(lambda: miners[1].asked)
    await world.stop_querier()
    gate.set()
    event = await world.event(body["event_id"])
    assert list(event.uids) == [1]
    assert event.scored


async def test_when_it_is_crowded_rewards_that_nobody_waits_for_are_left_out(world: World) -> None:
    gate = asyncio.Event()
    miners = await world.miners(says(GOOD), held(gate, BETTER))
    client = await world.querier(querier={"max_concurrent": 1})
    for n in range(3):
        assert (await ask(client, use_reward_model=False, timeout=50)).json()["degraded"] == []
        await wait_until(lambda n=n: len(miners[1].asked) == n + 1)
    gate.set()
    await wait_until(lambda: recorded(world, 3))
    unscored = [event for event in await world.forwards() if not event.scored]
    assert unscored
    assert {event.degraded for event in unscored} == {("reward",)}
    body = (await ask(client, use_reward_model=False)).json()
    assert (await world.event(body["event_id"])).scored


async def recorded(world: World, count: int) -> bool:
    return len(await world.forwards()) == count
