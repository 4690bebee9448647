"""The HTTP surface over a running engine, on a chain and a history in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from coremesh.service import Health, Loops
from coremesh.settings import ChainSettings, WeightsSettings
from coremesh.types import ORIGIN
from coremesh.wire.keys import KeyPair
from services.weights.app import create_app
from services.weights.engine import Engine
from tests.events import make_event
from tests.fakes.history import MemoryHistory
from tests.unit.weights.fake_chain import FakeChain
from tests.wait import wait_until

TOKEN = "of-the-mesh"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@asynccontextmanager
async def serving(
    history: MemoryHistory | None = None,
    chain: FakeChain | None = None,
    keypair: KeyPair | None = None,
    **settings: object,
) -> AsyncIterator[tuple[httpx.AsyncClient, Engine, FakeChain]]:
    chain = chain or FakeChain()
    wanted = WeightsSettings(interval_s=0.01, **settings)  # type: ignore[arg-type]
    engine = Engine(
        history or MemoryHistory(), chain, chain_settings=ChainSettings(), settings=wanted, holder="me"
    )
    died: list[str] = []
    async with Loops(lambda name, error: died.append(name)) as loops:
        app = create_app(
            engine, loops, Health(), token=TOKEN, alpha=0.99, keypair=keypair, keep_events=8, anchor_s=0.01
        )
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://weights", headers=BEARER) as client,
        ):
            yield client, engine, chain
    assert died == []
    assert "close" in chain.calls


async def announced(engine: Engine, events: int = 0) -> None:
    await wait_until(lambda: engine.book.page.state.announced and engine.book.page.state.events == events)


async def forward(engine: Engine, chain: FakeChain, **rewards: float | None) -> None:
    uids = {int(name[1:]): reward for name, reward in rewards.items()}
    event = make_event(uids, hotkeys={uid: chain.hotkeys[uid] for uid in uids})
    await engine.history.append(event, None, chain.hotkeys)


async def test_scores_show_every_uid_with_its_place_in_the_history() -> None:
    async with serving() as (client, engine, chain):
        await announced(engine)
        await forward(engine, chain, u1=1.0, u2=None)
        await announced(engine, events=1)
        page = engine.book.page
        assert (await client.get("/scores")).json() == {
            "rule": "softmax_ema",
            "alpha": 0.99,
            "events": 1,
            "last_id": page.last_id,
            "version": page.version,
            "rows": [
                {
                    "uid": uid,
                    "hotkey": hotkey,
                    "score": (1 - 0.99) * 1.0 if uid == 1 else 0.0,
                    "successes": int(uid == 1),
                    "failures": int(uid == 2),
                    "excluded": uid == 0,
                    "reset_block": 100,
                }
                for uid, hotkey in enumerate(chain.hotkeys)
            ],
        }


async def test_weights_show_what_would_be_set_beside_the_chain() -> None:
    async with serving() as (client, engine, chain):
        await wait_until(lambda: chain.weights)
        answer = (await client.get("/weights")).json()
        assert answer == {
            "uids": [0, 1, 2, 3],
            "weights": [0.25] * 4,
            "values": [65535] * 4,
            "on_chain": {str(uid): 65535 for uid in range(4)},
            "on_chain_block": chain.block,
            "last_id": engine.book.page.last_id,
            "held": None,
        }
        rows = (await client.get("/submissions", params={"count": 2})).json()["submissions"]
        assert [row["result"] for row in rows] == ["landed", "sent"]
        assert rows[0]["id"] == rows[1]["id"]
        assert rows[0]["landed_block"] == chain.block


async def test_a_preview_takes_other_scores_and_limits() -> None:
    async with serving() as (client, engine, _):
        await announced(engine)
        body = {"scores": {"1": 1.0, "2": 3.0}, "min_weights": 3}
        answer = (await client.post("/weights/preview", json=body)).json()
        assert (answer["uids"], answer["values"]) == ([1, 2, 3], [21845, 65535, 1])


async def test_an_override_lets_a_held_submission_pass() -> None:
    async with serving(chain=FakeChain(permit=False)) as (client, engine, chain):
        await wait_until(lambda: engine.submitter.reasons)
        held = (await client.get("/weights")).json()["held"]
        assert held == "our hotkey has no validator permit"
        assert (await client.post("/weights/override")).json() == {"overridden": ["no_permit"]}
        chain.advance()
        await wait_until(lambda: chain.weights)


async def test_a_standby_serves_the_leaders_scores_and_cannot_override() -> None:
    history = MemoryHistory()
    async with serving(history) as (client, engine, chain):
        await announced(engine)
        async with serving(history, chain) as (other, standby, _):
            standby.holder = "other"
            await forward(engine, chain, u1=1.0, u2=0.5)
            await announced(engine, events=1)
            await announced(standby, events=1)
            assert (await other.get("/scores")).json() == (await client.get("/scores")).json()


async def test_readiness_says_what_is_missing() -> None:
    chain = FakeChain(away=True)
    async with serving(chain=chain) as (client, engine, _):
        await wait_until(lambda: engine._problem == "the chain is away")
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"] == {
            "redis": "ok",
            "chain": "the chain is away",
            "metagraph": "no metagraph has been published yet",
        }
        refused = await client.get("/weights")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        scores = (await client.get("/scores")).json()
        assert (scores["last_id"], scores["rows"]) == (ORIGIN, [])
        chain.away = False
        await announced(engine)
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("path", ["/scores", "/weights", "/submissions"])
async def test_nothing_is_shown_without_the_token(path: str) -> None:
    async with serving() as (client, _, _):
        for header in ("", "Bearer wrong", TOKEN):
            answer = await client.get(path, headers={"authorization": header})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"scores": {"99": 1.0}}, 400, "bad_uid"),
        ({"scores": {"-1": 1.0}}, 400, "bad_uid"),
        ({"scores": {"one": 1.0}}, 400, "bad_request"),
        ({"min_weights": 0}, 400, "bad_request"),
        ({"max_weight": 65536}, 400, "bad_request"),
        ({"weights": []}, 400, "bad_request"),
    ],
)
async def test_a_bad_preview_is_refused(body: dict, status: int, code: str) -> None:
    async with serving() as (client, engine, _):
        await announced(engine)
        answer = await client.post("/weights/preview", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("count", ["0", "1001", "many"])
async def test_a_bad_count_is_refused(count: str) -> None:
    async with serving() as (client, _, _):
        answer = await client.get("/submissions", params={"count": count})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
