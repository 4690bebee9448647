"""The dashboard's endpoints on a real history and real HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import msgspec
import pytest

from coremesh.events import ForwardEvent
from coremesh.metagraph import Hyperparameters, Metagraph
from coremesh.wire.status import Status
from tests.integration.querier.conftest import World
from tests.integration.querier.dashboard import (
    Doubles,
    append,
    explanation,
    make_event,
    seed,
    submission,
)
from tests.integration.querier.network import make_metagraph, make_miners, says
from tests.wait import wait_until

PATHS = ("leaderboard", "learning", "miners/1", "events", "submissions")


class Page:
    """A querier with its dashboard, and what surrounds it."""

    def __init__(self, client: httpx.AsyncClient, doubles: Doubles, metagraph: Metagraph) -> None:
        self.client = client
        self.doubles = doubles
        self.metagraph = metagraph

    async def get(self, path: str, **headers: str) -> Any:
        answer = await self.client.get(f"/dashboard/api/{path}", headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def status(self, path: str, **headers: str) -> int:
        return (await self.client.get(f"/dashboard/api/{path}", headers=headers)).status_code

    async def follows(self, count: int) -> None:
        """Wait until it knows so many events."""

        async def knows() -> bool:
            return (await self.get("overview"))["events"] >= count

        await wait_until(knows, why=f"{count} events followed")


async def open_page(
    world: World, *, secret: bool = False, hotkeys: dict[int, str] | None = None, **settings: Any
) -> Page:
    """Three miners, a seeded snapshot, doubles of the services, and a querier."""
    miners = make_miners([says("A good answer."), says("Another answer."), says("Words.")])
    metagraph = make_metagraph(miners, [9, 9, 9])
    neurons = tuple(
        msgspec.structs.replace(n, hotkey=(hotkeys or {}).get(n.uid, n.hotkey)) for n in metagraph.neurons
    )
    metagraph = msgspec.structs.replace(
        metagraph, neurons=neurons, hyperparameters=Hyperparameters(commit_reveal=secret)
    )
    await world.publish(metagraph)
    doubles = Doubles(metagraph, scores={1: 0.6, 2: 0.2}, on_chain={1: 65535, 2: 21845})
    app = world.services.app()
    doubles.add_to(app)
    world.services_url = await world.servers.serve(app, "127.3.0.8")
    client = await world.querier(wait=False, **settings)
    page = Page(client, doubles, metagraph)
    await page.follows(1)  # the metagraph's own event
    return page


async def test_the_overview_names_every_part_with_its_state(world: World) -> None:
    page = await open_page(world)
    events = await seed(world.history, page.metagraph, 5)
    await page.follows(6)
    page.doubles.last_id = (await world.history.read("0-0", 4))[-1].stream_id

    async def lags() -> Any:
        found = await page.get("overview")
        states = {one["name"]: one for one in found["services"]}
        up = [name for name, one in states.items() if one["state"] == "up"]
        return found if len(up) == 5 and states["weights"]["lag_events"] == 2 else None

    found = await wait_until(lags)
    assert found["viewer"] == {"key": "none", "numbers": True, "texts": True, "asks": True}
    assert (found["netuid"], found["size"], found["available"]) == (1, 5, 3)
    assert found["events"] == 6
    assert found["scored_events"] == 42
    assert found["per_minute"] == pytest.approx(60_000 / 700)
    states = {one["name"]: (one["state"], one["version"]) for one in found["services"]}
    assert states == {
        "querier": ("up", "0.1.0"),
        "trainer": ("away", ""),
        "gating": ("up", "0.1.0"),
        "reward": ("up", "0.1.0"),
        "weights": ("up", "0.1.0"),
        "history": ("up", ""),
    }
    newest = await world.history.last_id()
    lag = (int(newest.partition("-")[0]) - int(page.doubles.last_id.partition("-")[0])) / 1000
    weights = next(one for one in found["services"] if one["name"] == "weights")
    assert weights["lag_s"] == pytest.approx(lag)
    assert found["last_id"] == newest
    assert len(events) == 5


async def test_a_service_with_a_problem_is_degraded_and_says_why(world: World) -> None:
    page = await open_page(world)
    page.doubles.checks["redis"] = "Redis does not answer"

    async def degraded() -> Any:
        services = (await page.get("overview"))["services"]
        return next((one for one in services if one["state"] == "degraded"), None)

    found = await wait_until(degraded)
    assert found["problems"] == ["Redis does not answer"]


async def test_the_leaderboard_joins_scores_weights_and_what_was_seen(world: World) -> None:
    page = await open_page(world)
    for time_ms, reward in ((1_000, 0.5), (2_000, 0.7)):
        forward = make_event(page.metagraph, {1: reward, 2: Status.TIMEOUT}, time_ms=time_ms)
        await append(world.history, forward)
    await page.follows(3)

    async def both() -> Any:
        found = await page.get("leaderboard")
        row = found["rows"][1]
        return found if row["asked"] == 2 and row["score"] and row["weight"] and not found["stale"] else None

    found = await wait_until(both)
    assert (found["block"], found["stale"]) == (7, None)
    rows = found["rows"]
    assert [row["role"] for row in rows] == ["self", "miner", "miner", "miner", "validator"]
    good = dict(rows[1])
    assert good.pop("rewards") == [pytest.approx(0.5), pytest.approx(0.7)]
    assert good == {
        "uid": 1,
        "hotkey": page.metagraph.neurons[1].hotkey,
        "role": "miner",
        "score": 0.6,
        "weight": pytest.approx(0.75),
        "on_chain": pytest.approx(0.75),
        "asked": 2,
        "success": 1.0,
        "latency_s": pytest.approx(0.1),
        "reward": pytest.approx(0.6),
        "last_status": "ok",
        "last_ms": 2000,
    }
    assert (rows[2]["success"], rows[2]["latency_s"], rows[2]["rewards"]) == (0.0, None, [None, None])
    assert (rows[3]["asked"], rows[3]["success"], rows[3]["rewards"]) == (0, None, [])


async def test_a_service_that_goes_away_leaves_its_last_numbers_and_says_so(world: World) -> None:
    page = await open_page(world)

    async def scored() -> bool:
        return (await page.get("leaderboard"))["rows"][1]["score"] == 0.6

    await wait_until(scored)
    page.doubles.down |= {"/scores", "/weights", "/head"}

    async def stale() -> Any:
        found = await page.get("leaderboard")
        return found if found["stale"] else None

    found = await wait_until(stale)
    assert found["rows"][1]["score"] == 0.6
    assert "weights" in found["stale"]
    assert (await page.get("overview"))["services"][0]["state"] == "up"  # the querier itself
    assert (await page.get("learning"))["events"] == 0


async def test_a_miners_page_has_its_requests_its_standing_and_its_events(world: World) -> None:
    page = await open_page(world)
    made = [
        make_event(page.metagraph, {1: 0.5, 2: 0.4}, time_ms=1_000),
        make_event(page.metagraph, {2: 0.4}, time_ms=2_000),
        make_event(page.metagraph, {1: Status.TIMEOUT}, time_ms=3_000),
    ]
    for forward in made:
        await append(world.history, forward)
    await page.follows(4)

    async def standing() -> Any:
        found = await page.get("miners/1")
        return found if found["rank"] and found["row"]["weight"] else None

    found = await wait_until(standing)
    assert found["statuses"] == {"ok": 1, "timeout": 1}
    assert found["samples"] == [
        {"time_ms": 1000, "status": "ok", "latency_s": pytest.approx(0.1), "reward": pytest.approx(0.5)},
        {"time_ms": 3000, "status": "timeout", "latency_s": pytest.approx(0.1), "reward": None},
    ]
    assert [(one["event_id"], one["own_status"], one["own_reward"]) for one in found["events"]] == [
        (made[2].id, "timeout", None),
        (made[0].id, "ok", 0.5),
    ]
    assert (found["rank"], found["successes"], found["failures"]) == (1, 10, 1)

    async def alike() -> bool:
        return found["row"] == (await page.get("leaderboard"))["rows"][1]

    await wait_until(alike)
    assert await page.status("miners/99") == 400
    assert await page.status("miners/70000") == 400
    assert await page.status("miners/x") == 400


async def test_an_explanation_is_given_as_the_weights_service_gives_it(world: World) -> None:
    page = await open_page(world)
    given = explanation(page.metagraph, 1, 0.6)
    page.doubles.explanations[1] = given

    async def explained() -> Any:
        found = await page.get("miners/1/explanation")
        return found if found["available"] else None

    found = await wait_until(explained, timeout=60)
    assert (found["available"], found["reason"]) == (True, None)
    assert found["explanation"]["standing"] == given["explanation"]["standing"]
    assert [step["what"] for step in found["explanation"]["steps"]] == ["reset", "event", "event"]
    missing = await page.get("miners/2/explanation")
    assert missing["available"] is False
    assert "nothing is known" in missing["reason"]


async def test_events_come_once_newest_first(world: World) -> None:
    page = await open_page(world)
    await seed(world.history, page.metagraph, 3)
    await page.follows(4)
    first = await page.get("events?count=2")
    assert [event["kind"] for event in first["events"]] == ["question", "answer"]
    assert first["last_id"] == first["events"][0]["stream_id"]
    forward = make_event(
        page.metagraph, {1: 0.25, 3: 0.75, 2: Status.REFUSED}, time_ms=9_000, kind="inference"
    )
    await append(world.history, forward)
    await page.follows(5)
    (event,) = (await page.get(f"events?after={first['last_id']}"))["events"]
    assert event == {
        "stream_id": await world.history.last_id(),
        "event_id": forward.id,
        "time_ms": 9000,
        "block": 7,
        "kind": "inference",
        "flags": ["train_gating", "scored"],
        "asked": 3,
        "succeeded": 2,
        "best_uid": 3,
        "best_reward": pytest.approx(0.75),
        "mean_reward": pytest.approx(0.5),
        "slowest_s": pytest.approx(0.2),
        "degraded": [],
        "changes": None,
    }
    oldest = (await page.get("events?count=200"))["events"][-1]
    assert (oldest["kind"], oldest["changes"]) == ("metagraph", 5)
    for bad in ("events?after=x", "events?after=1-", "events?count=0", "events?count=201"):
        assert await page.status(bad) == 400


async def test_submissions_show_their_newest_record(world: World) -> None:
    page = await open_page(world)
    page.doubles.held = "too few events"
    page.doubles.submissions = [
        submission(3, "held", reason="too few events"),
        submission(2, "landed", weights={1: 0.2, 2: 0.8, 3: 0.0}),
        {**submission(2, "sent"), "stream_id": "1-9"},
        submission(1, "failed", reason="x" * 9000),
    ]

    async def both() -> Any:
        found = await page.get("submissions")
        return found if found["held"] and found["submissions"] else None

    found = await wait_until(both)
    assert (found["held"], found["stale"]) == ("too few events", None)
    kept = [(one["id"], one["result"], one["landed_block"]) for one in found["submissions"]]
    assert kept == [("S3", "held", 0), ("S2", "landed", 201), ("S1", "failed", 0)]
    assert (found["submissions"][1]["miners"], found["submissions"][1]["top"]) == (2, [2, 1])
    assert len(found["submissions"][2]["reason"]) == 500


async def test_the_learning_curve_comes_from_the_events(world: World) -> None:
    page = await open_page(world)
    for n in range(4):
        forward = make_event(
            page.metagraph,
            {1: 0.9, 2: 0.3, 3: 0.0},
            time_ms=1000 + n,
            gating={1: 1.0, 2: 0.5, 3: 0.1},
            propensity=1.0,
        )
        await append(world.history, forward)
    await page.follows(5)

    async def whole() -> Any:
        found = await page.get("learning")
        return found if found["events"] == 4 and found["version"] else None

    found = await wait_until(whole)
    assert found["lift"] == pytest.approx(0.9 / 0.4)
    assert found["points"][-1] == {
        "time_ms": 1003,
        "first": pytest.approx(0.9),
        "mean": pytest.approx(0.4),
        "best": pytest.approx(0.9),
        "head_version": 3,
        "events": 4,
    }
    assert (found["rule"], found["version"], found["steps"], found["features"]) == ("bayes", 17, 40, 64)


async def recorded(world: World, page: Page, completion: str) -> ForwardEvent:
    forward = make_event(page.metagraph, {1: 0.5, 2: 0.9}, time_ms=1000, prompt="a secret of somebody's")
    await append(world.history, forward, (completion, "short"))
    await page.follows(2)
    return forward


async def test_an_event_in_full_with_its_texts_cut(world: World) -> None:
    page = await open_page(world)
    forward = await recorded(world, page, "y" * 1_000_000)
    found = await page.get(f"events/{forward.id}")
    assert found["texts"] is True
    assert found["prompt"] == [{"role": "user", "content": "a secret of somebody's", "chars": 22}]
    assert [(m["uid"], m["chars"], len(m["completion"])) for m in found["miners"]] == [
        (2, 5, 5),
        (1, 1_000_000, 4_000),
    ]
    assert found["miners"][0]["parts"] == {"relevance": pytest.approx(0.9)}
    assert found["miners"][0]["hotkey"] == page.metagraph.neurons[2].hotkey
    assert await page.status("events/" + "0" * 26) == 404
    assert await page.status("events/nonsense") == 400


async def test_strangers_see_numbers_and_no_texts_where_a_key_is_needed(world: World) -> None:
    page = await open_page(world, querier={"api_keys": ["sesame"], "operator_token": "boss"})
    forward = await recorded(world, page, "a completion")
    for path in PATHS:
        answer = await page.client.get(f"/dashboard/api/{path}")
        assert answer.status_code == 200
        assert "secret" not in answer.text
    assert (await page.get("overview"))["viewer"] == {
        "key": "none",
        "numbers": True,
        "texts": False,
        "asks": False,
    }
    stranger = await page.get(f"events/{forward.id}")
    assert (stranger["texts"], stranger["prompt"]) == (False, None)
    assert [m["completion"] for m in stranger["miners"]] == [None, None]
    assert await page.status("miners/1/explanation") == 401
    # A caller may ask, and sees no other caller's texts; an operator does.
    caller, boss = {"authorization": "Bearer sesame"}, {"authorization": "Bearer boss"}
    assert (await page.get("overview", **caller))["viewer"]["asks"] is True
    assert (await page.get(f"events/{forward.id}", **caller))["prompt"] is None
    assert (await page.get(f"events/{forward.id}", **boss))["prompt"][0][
        "content"
    ] == "a secret of somebody's"
    wrong = (await page.get("overview", authorization="Bearer wrong"))["viewer"]
    assert wrong == {"key": "refused", "numbers": True, "texts": False, "asks": False}


async def test_numbers_need_a_key_where_weights_are_secret_until_revealed(world: World) -> None:
    page = await open_page(world, secret=True, querier={"api_keys": ["sesame"]})
    assert {path: await page.status(path) for path in PATHS} == dict.fromkeys(PATHS, 401)
    held = {path: await page.status(path, authorization="Bearer sesame") for path in PATHS}
    assert held == dict.fromkeys(PATHS, 200)
    overview = await page.get("overview")
    assert (overview["commit_reveal"], overview["viewer"]["numbers"]) == (True, False)


async def test_many_viewers_ask_the_services_once_in_a_while(world: World) -> None:
    page = await open_page(world)
    before, start = dict(page.doubles.asked), time.monotonic()
    for _ in range(30):
        await asyncio.gather(*(page.get(path) for path in ("overview", "leaderboard", "submissions")))
    took_s = time.monotonic() - start
    more = {path: n - before.get(path, 0) for path, n in page.doubles.asked.items()}
    # Three of the services are this one double, and each answer stands for a second at least.
    assert max(more.values()) <= 3 * (took_s + 1), more


async def test_the_page_and_its_files_are_served_with_a_strict_policy(world: World) -> None:
    page = await open_page(world)
    answer = await page.client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "<script>" not in answer.text
    assert "style=" not in answer.text
    for name in ("js/app.js", "css/base.css", "icon.svg", "vendor/uplot/uPlot.iife.min.js"):
        file = await page.client.get(f"/dashboard/static/{name}")
        assert file.status_code == 200
        assert file.headers["x-content-type-options"] == "nosniff"
        again = await page.client.get(
            f"/dashboard/static/{name}", headers={"if-none-match": file.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
    for name in ("../app.py", "%2e%2e/app.py", "js/nothing.js", "vendor/uplot/LICENSE", ""):
        assert (await page.client.get(f"/dashboard/static/{name}")).status_code == 404


async def test_it_can_be_turned_off(world: World) -> None:
    await world.miners()
    client = await world.querier(querier={"dashboard": False})
    paths = ("/", "/dashboard/api/overview", "/dashboard/static/js/app.js")
    assert [(await client.get(path)).status_code for path in paths] == [404, 404, 404]
    assert (await client.get("/miners")).status_code == 200
