from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest

from coremesh.errors import HistoryUnavailable, ServiceUnavailable
from coremesh.events import ForwardEvent
from coremesh.history import Entry
from coremesh.metagraph import Metagraph, Neuron, difference
from coremesh.types import ORIGIN, StreamId, hotkey_digest
from services.querier.dashboard.cached import Cached
from services.querier.dashboard.follower import EVENTS, PAGE, HistoryFollower
from tests.events import hotkey, make_event
from tests.fakes.history import MemoryHistory
from tests.wait import wait_until


class AwayHistory(MemoryHistory):
    """A history that can be away."""

    away = False

    async def tail(self, count: int) -> list[Entry]:
        if self.away:
            raise HistoryUnavailable("Redis does not answer")
        return await super().tail(count)


def metagraph(*hotkeys: str) -> Metagraph:
    neurons = tuple(Neuron(uid=uid, hotkey=name, coldkey="c") for uid, name in enumerate(hotkeys))
    return Metagraph(netuid=1, block=1, time_ms=1, neurons=neurons)


async def test_it_begins_with_the_newest_and_reads_on() -> None:
    history = MemoryHistory()
    for _ in range(EVENTS + 50):
        await history.append(make_event({1: 0.5}), None, [])
    follower = HistoryFollower(history, lambda: None)
    await follower.look()
    assert (len(follower), follower.last_id) == (EVENTS, f"{EVENTS + 50}-0")
    for _ in range(PAGE + 5):
        await history.append(make_event({1: 0.7}), None, [])
    await follower.look()
    await follower.look()
    assert (len(follower), follower.last_id) == (EVENTS, f"{EVENTS + 50 + PAGE + 5}-0")
    newest = follower.newest(3)
    assert [entry.stream_id for entry in newest] == [f"{EVENTS + 255 - i}-0" for i in range(3)]
    assert follower.newest(10, newest[1].stream_id) == newest[:1]
    assert follower.behind(newest[2].stream_id) == 2
    assert follower.behind(ORIGIN) == EVENTS


async def test_no_text_is_kept_in_memory() -> None:
    history = MemoryHistory()
    event = make_event({1: 0.5}, question="x" * 50_000)
    await history.append(event, None, [])
    follower = HistoryFollower(history, lambda: None)
    await follower.look()
    kept = follower.find(event.id)
    assert kept is not None
    assert isinstance(kept.event, ForwardEvent)
    assert kept.event.messages == ()
    assert kept.event.rewards.tolist() == [0.5]
    assert follower.find("nobody") is None


@pytest.mark.parametrize("column", ["uids_", "hotkeys_", "status_", "latency_", "rewards_", "gating_"])
async def test_a_broken_event_is_passed_over(column: str) -> None:
    history = MemoryHistory()
    broken = msgspec.structs.replace(make_event({1: 0.5, 2: 0.7}), **{column: b"123"})
    await history.append(broken, None, [])
    await history.append(make_event({1: 0.5}), None, [])
    follower = HistoryFollower(history, lambda: None)
    await follower.look()
    assert [entry.stream_id for entry in follower.newest(9)] == ["2-0"]
    assert follower.last_id == "2-0"


async def test_a_miner_that_left_is_forgotten() -> None:
    history = MemoryHistory()
    now = metagraph(hotkey(0), hotkey(1))
    lease = await history.acquire("weights", "me", timedelta(seconds=9))
    assert lease is not None
    await history.publish(now, difference(None, now), lease)
    await history.append(make_event({0: 0.5, 1: 0.6}), None, [])
    seen = [now]
    follower = HistoryFollower(history, lambda: seen[-1])
    await follower.look()
    assert len(follower.window) == 2
    assert [type(entry.event).__name__ for entry in follower.newest(9)] == ["ForwardEvent", "MetagraphEvent"]
    seen.append(metagraph(hotkey(0), "5Newcomer"))
    await history.append(make_event({0: 0.5}), None, [])
    await follower.look()
    assert follower.window.samples(hotkey_digest(hotkey(1))).status.size == 0
    assert follower.window.samples(hotkey_digest(hotkey(0))).status.size == 2


async def test_while_redis_is_away_it_says_so_and_goes_on_afterwards() -> None:
    history = AwayHistory()
    history.away = True
    await history.append(make_event({1: 0.5}), None, [])
    follower = HistoryFollower(history, lambda: None)
    running = asyncio.create_task(follower.run())
    try:
        await wait_until(lambda: follower.problem == "Redis does not answer")
        assert len(follower) == 0
        history.away = False
        await wait_until(lambda: follower.problem is None and len(follower) == 1)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_hundred_viewers_are_one_call() -> None:
    calls = 0
    gate = asyncio.Event()

    async def load() -> int:
        nonlocal calls
        calls += 1
        await gate.wait()
        return calls

    cached = Cached(load, ttl_s=60)
    viewers = [asyncio.create_task(cached.get()) for _ in range(100)]
    await wait_until(lambda: calls == 1)
    viewers[0].cancel()  # the one that asks for all goes away: another asks
    gate.set()
    seen = await asyncio.gather(*viewers[1:])
    assert {one.value for one in seen} == {2}
    assert (await cached.get()).value == 2


async def test_the_last_answer_is_kept_while_there_is_no_newer_one() -> None:
    answers: list[str | None] = ["first", None, "second"]

    async def load() -> str:
        answer = answers.pop(0)
        if answer is None:
            raise ServiceUnavailable("weights does not answer")
        return answer

    cached = Cached(load, ttl_s=0)
    seen = [await cached.get() for _ in range(3)]
    assert [(one.value, one.problem) for one in seen] == [
        ("first", None),
        ("first", "weights does not answer"),
        ("second", None),
    ]


async def test_a_failure_stands_for_a_shorter_time_than_an_answer() -> None:
    answers: list[str | None] = [None, "an answer", "another"]

    async def load() -> str:
        answer = answers.pop(0)
        if answer is None:
            raise ServiceUnavailable("weights does not answer")
        return answer

    cached = Cached(load, ttl_s=60, failed_s=0)
    assert [(await cached.get()).value for _ in range(3)] == [None, "an answer", "an answer"]


@pytest.mark.parametrize("place", ["9-0", "0-1"])
async def test_a_place_that_is_not_there_is_a_place_all_the_same(place: str) -> None:
    history = MemoryHistory()
    await history.append(make_event({1: 0.5}), None, [])
    follower = HistoryFollower(history, lambda: None)
    await follower.look()
    assert len(follower.newest(5, StreamId(place))) == (0 if place == "9-0" else 1)


async def test_the_rate_falls_when_nothing_comes_any_more() -> None:
    history = MemoryHistory()
    for n in range(11):
        event = msgspec.structs.replace(make_event({1: 0.5}), time_ms=n * 1000)
        await history.append(event, None, [])
    follower = HistoryFollower(history, lambda: None)
    await follower.look()
    assert follower.per_minute(10_500) == 60  # one a second
    assert follower.per_minute(40_000) == 60  # a pause is no end
    assert follower.per_minute(600_000) == 1  # ten in ten minutes
