"""Explaining scores after the start of the history was trimmed away."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coremesh.errors import LeaseLost
from coremesh.history import Checkpoint, Lease
from coremesh.types import ORIGIN, StreamId
from services.weights import scores
from services.weights.anchors import NAME, SPREAD, _decoder, base, keep
from services.weights.book import Page
from services.weights.rules import ShrunkZ, SoftmaxEma
from services.weights.scores import ScoreState
from tests.events import make_event
from tests.fakes.history import MemoryHistory
from tests.unit.weights.test_api import announced, forward, serving
from tests.wait import wait_until

RULE = SoftmaxEma()


async def leading(history: MemoryHistory) -> Lease:
    lease = await history.acquire("weights", "me", timedelta(seconds=60))
    assert lease is not None
    return lease


async def grow(history: MemoryHistory, count: int) -> Page:
    for _ in range(count):
        await history.append(make_event({1: 1.0, 2: 0.5}), None, [])
    entries = await history.read(ORIGIN, 100_000)
    state = scores.fold(ScoreState(), (entry.event for entry in entries), RULE)
    return Page(state, entries[-1].stream_id, 1)


async def test_anchors_lie_within_the_kept_events_and_give_the_state_that_was() -> None:
    history = MemoryHistory()
    lease = await leading(history)
    at = Page(ScoreState(), ORIGIN, 0)
    states: dict[StreamId, bytes] = {}
    for _ in range(40):
        page = await grow(history, 3)
        if await keep(history, page, RULE, lease, 10):
            states[page.last_id] = scores.dump(page.state)
        at = page
    assert len(states) == 10
    whole = await base(history, RULE)
    assert whole is not None
    assert whole.place == ORIGIN
    stored = await history.load(NAME)
    assert stored is not None
    assert len(_decoder.decode(stored.state)) == SPREAD + 1
    # The history goes on without its first 60 events.
    await history.save("scores", Checkpoint(last_id=at.last_id, state=b""), lease, ORIGIN)
    await history.trim(60, ("scores",))
    found = await base(history, RULE)
    assert found is not None
    assert int(found.place.split("-")[0]) >= 60
    assert scores.dump(found.state) == states[found.place]
    assert await base(history, ShrunkZ()) is None
    # All anchors trimmed away.
    await history.append(make_event({1: 1.0}), None, [])
    await history.trim(0, ())
    assert await base(history, RULE) is None


async def test_a_fold_begun_anew_and_another_rule_have_anchors_of_their_own() -> None:
    history = MemoryHistory()
    lease = await leading(history)
    page = await grow(history, 10)
    assert await keep(history, page, RULE, lease, 10)
    assert not await keep(history, page, RULE, lease, 10)
    assert await keep(history, page, ShrunkZ(), lease, 10)
    stored = await history.load(NAME)
    assert stored is not None
    assert (stored.format, len(_decoder.decode(stored.state))) == ("anchors/1:scores/1:shrunk_z:kappa=3.0", 1)
    with pytest.raises(LeaseLost):
        await keep(history, page, RULE, Lease("weights", "old", 0), 1)


async def test_the_service_explains_a_trimmed_history_from_its_anchors() -> None:
    async with serving(keep_events=8, trim_s=0.02, trim_folds=("scores",)) as (client, engine, chain):
        await announced(engine)
        for n in range(30):
            await forward(engine, chain, u1=1.0 + n, u2=None, u3=0.5)
            await announced(engine, events=n + 1)
            await wait_until(lambda n=n: _anchored(engine.history, n + 1))
        await wait_until(lambda: _trimmed(engine.history))
        found = (await client.get("/explain/1")).json()["explanation"]
        assert (found["agrees"], found["note"].startswith("the history up to")) == (True, True)
        assert found["since"] != ORIGIN
        assert 1 <= len(found["steps"]) < 30
        assert found["steps"][-1]["after"] == found["standing"]


async def _anchored(history: object, events: int) -> bool:
    stored = await history.load(NAME)  # type: ignore[attr-defined]
    return stored is not None and _decoder.decode(stored.state)[-1].events >= events


async def _trimmed(history: object) -> bool:
    return await history.trimmed() != ORIGIN  # type: ignore[attr-defined]
