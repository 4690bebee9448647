"""The safety filter lives in the reward service: what users get while that is away is the operator's choice."""

from __future__ import annotations

import asyncio

import openai
import pytest

from services.querier.judge import FilterAway
from tests.integration.querier.conftest import World, ask
from tests.integration.querier.network import held, says
from tests.wait import wait_until

GOOD = "Because air scatters blue light more than red light."


async def test_by_default_texts_pass_and_the_answer_says_so(world: World) -> None:
    await world.miners(says(GOOD))
    world.services.down = {"filter"}
    client = await world.querier()
    body = (await ask(client)).json()
    assert (body["completion"], body["degraded"]) == (GOOD, ["filter"])
    assert (await world.event(body["event_id"])).degraded == ("filter",)


async def test_refuse_lets_no_prompt_out_unjudged(world: World) -> None:
    miners = await world.miners(says(GOOD))
    client = await world.querier(querier={"filter_when_away": "refuse"})
    assert (await ask(client)).json()["completion"] == GOOD
    world.services.down = {"filter"}
    refused = await ask(client)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.json() == {
        "code": "filter_away",
        "message": "the safety filter is away, and nothing passes without it",
        "remedy": FilterAway.default_remedy,
    }
    assert len(miners[0].asked) == 1
    async with openai.AsyncOpenAI(
        base_url=f"{str(client.base_url).rstrip(chr(47))}/v1", api_key="none", max_retries=0
    ) as user:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as error:
                await user.chat.completions.create(
                    model="coremesh", messages=[{"role": "user", "content": "Why?"}], stream=stream
                )
            assert (error.value.status_code, error.value.code) == (503, "filter_away")
            assert error.value.response.headers["retry-after"] == "2"
    world.services.down = set()

    async def back() -> bool:
        return (await ask(client)).status_code == 200

    await wait_until(back, why="texts are judged again")


async def test_refuse_gives_no_completion_unjudged_and_records_it_all_the_same(world: World) -> None:
    gate = asyncio.Event()
    miners = await world.miners(held(gate, GOOD))
    client = await world.querier(querier={"filter_when_away": "refuse"})
    asking = asyncio.create_task(ask(client))
    await wait_until(lambda: miners[0].asked)
    world.services.down = {"filter"}
    gate.set()
    refused = await asking
    assert (refused.status_code, refused.json()["code"]) == (503, "filter_away")
    (event,) = await wait_until(world.forwards)
    assert event.degraded == ("filter",)
    assert event.scored
    transcript = await world.history.transcript(event.id)
    assert transcript is not None
    assert transcript.completions == (GOOD,)


async def test_where_the_filter_is_switched_off_nothing_is_missing(world: World) -> None:
    await world.miners(says(GOOD))
    world.services.down = {"filter"}
    client = await world.querier(querier={"filter_when_away": "refuse", "no_nsfw_filter": True})
    body = (await ask(client)).json()
    assert (body["completion"], body["degraded"]) == (GOOD, [])
