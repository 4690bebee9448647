"""What every History must do, on real Redis and on the fake that unit tests use."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import msgspec
import pytest

from coremesh.errors import LeaseLost
from coremesh.events import Flag, ScoredEvent, Transcript, decode, decode_scored
from coremesh.history import Checkpoint, Entry, History, Lease, Submission
from coremesh.history.page import Page, has_pages
from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph, Neuron, difference
from coremesh.types import ORIGIN, StreamId, hotkey_digest, new_event_id
from tests.events import hotkey, make_event
from tests.fakes.history import MemoryHistory
from tests.wait import wait_until

TTL = timedelta(seconds=5)


@pytest.fixture(params=["redis", "memory"])
def history(request: pytest.FixtureRequest) -> History:
    if request.param == "memory":
        return MemoryHistory()
    found: RedisHistory = request.getfixturevalue("redis_history")
    return found


async def lease_of(history: History, role: str = "weights", holder: str = "a") -> Lease:
    lease = await history.acquire(role, holder, TTL)
    assert lease is not None
    return lease


def checkpoint(at: StreamId, state: bytes = b"state") -> Checkpoint:
    return Checkpoint(last_id=at, state=state, format="test/1", time_ms=1)


async def test_events_come_back_whole_and_in_order(history: History) -> None:
    events = [make_event({1: 0.5, 2: None}, question=f"question {n}?") for n in range(5)]
    places = [await history.append(event, None, [hotkey(1), hotkey(2)]) for event in events]
    entries = await history.read(ORIGIN, 10)
    assert [entry.event for entry in entries] == events
    assert [entry.stream_id for entry in entries] == places
    assert [entry.event for entry in await history.read(places[1], 2)] == events[2:4]
    assert [entry.event for entry in await history.tail(2)] == [events[4], events[3]]
    assert await history.length() == 5
    assert await history.last_id() == places[-1]


@pytest.mark.skipif(not has_pages(), reason="what frames replies is not compiled")
async def test_a_sweep_gives_what_reading_gives(history: History) -> None:
    found: list[Entry] = []
    page = Page(200)

    def take(page: Page) -> None:
        assert page.count
        found.extend(page.entries(decode, 0, page.count))

    assert await history.sweep(ORIGIN, 1000, page, take) == 0
    events = [make_event({1: 0.5, 2: None}, question=f"question {n}? " * 300) for n in range(450)]
    for event in events:
        await history.append(event, None, [])
    assert await history.sweep(ORIGIN, 1000, page, take) == 450
    assert found == await history.read(ORIGIN, 1000)
    half = found[:225]
    found.clear()
    swept = await history.sweep(ORIGIN, 225, page, take)
    assert swept == len(found) >= 225
    assert found[:225] == half
    assert await history.sweep(found[-1].stream_id, 1000, page, take) == 450 - swept
    assert [entry.event for entry in found] == events


@pytest.mark.skipif(not has_pages(), reason="what frames replies is not compiled")
async def test_what_take_raises_ends_a_sweep(history: History) -> None:
    for n in range(3):
        await history.append(make_event({1: 0.5}, question=f"question {n}?"), None, [])

    def take(page: Page) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        await history.sweep(ORIGIN, 10, Page(2), take)
    assert len(await history.read(ORIGIN, 10)) == 3


async def test_many_at_once_come_back_the_same_and_by_another_decoder(history: History) -> None:
    events = [make_event({1: 0.5, 2: None}, question=f"question {n}?") for n in range(450)]
    places = [await history.append(event, None, []) for event in events]
    entries = await history.read(ORIGIN, 1000)
    assert [entry.event for entry in entries] == events
    assert [entry.stream_id for entry in entries] == places
    assert [entry.event for entry in await history.read(places[9], 300)] == events[10:310]
    wait = timedelta(seconds=1)
    for page in (
        await history.read(places[9], 300, None, decode_scored),
        await history.read(places[9], 300, wait, decode_scored),
    ):
        assert [entry.stream_id for entry in page] == places[10:310]
        read = [entry.event for entry in page]
        assert all(isinstance(event, ScoredEvent) for event in read)
        assert (
            [(e.time_ms, e.block, e.flags, e.uids_, e.hotkeys_, e.rewards_) for e in read]
            == [  # type: ignore[union-attr]
                (e.time_ms, e.block, e.flags, e.uids_, e.hotkeys_, e.rewards_) for e in events[10:310]
            ]
        )
    assert await history.read(places[-1], 1000) == []


async def test_an_empty_history(history: History) -> None:
    assert await history.read(ORIGIN, 10) == []
    assert await history.tail(10) == []
    assert await history.last_id() == ORIGIN
    assert await history.trimmed() == ORIGIN
    assert await history.metagraph() is None
    assert await history.load("scores") is None
    assert await history.version("scores") == 0
    assert await history.find(new_event_id()) is None
    assert await history.transcript(new_event_id()) is None


async def test_appending_twice_is_appending_once(history: History) -> None:
    event = make_event({1: 0.5})
    first = await history.append(event, Transcript(id=event.id, completions=("one",)), [hotkey(1)])
    again = await asyncio.gather(*(history.append(event, None, [hotkey(1)]) for _ in range(10)))
    assert set(again) == {first}
    assert await history.length() == 1


async def test_an_event_is_found_by_its_id_with_its_texts(history: History) -> None:
    for n in range(3):
        await history.append(make_event({n: 0.1}), None, [hotkey(n)])
    event = make_event({7: 0.5})
    transcript = Transcript(id=event.id, completions=("because of Rayleigh scattering \N{SNOWMAN}",))
    place = await history.append(event, transcript, [hotkey(7)])
    found = await history.find(event.id)
    assert found is not None
    assert (found.stream_id, found.event) == (place, event)
    assert await history.transcript(event.id) == transcript
    assert await history.find("not an event id") is None


async def test_texts_are_found_whatever_the_clock_of_whoever_observed_the_event(history: History) -> None:
    now_ms = time.time_ns() // 1_000_000
    for away_s in (90, 0, -90, -4000):
        event = make_event({1: 0.5}, event_id=new_event_id(now_ms + 1000 * away_s))
        transcript = Transcript(id=event.id, completions=(f"{away_s} s ahead",))
        await history.append(event, transcript, [hotkey(1)])
        assert await history.transcript(event.id) == transcript
        private = make_event({1: 0.5}, event_id=new_event_id(now_ms + 1000 * away_s))
        await history.append(private, None, [hotkey(1)])
        assert await history.transcript(private.id) is None


async def test_digests_lead_back_to_hotkeys(history: History) -> None:
    await history.append(make_event({1: 0.5, 2: 0.1}), None, [hotkey(1), hotkey(2)])
    digest = hotkey_digest(hotkey(2))
    assert await history.resolve([digest, 12345]) == {digest: hotkey(2)}
    assert await history.resolve([]) == {}


async def test_hotkeys_go_when_no_event_needs_them(history: History) -> None:
    weights = await lease_of(history)
    neuron = Neuron(uid=0, hotkey=hotkey(7), coldkey="c", stake=1.0, permit=False)
    await history.publish(Metagraph(netuid=1, block=1, time_ms=1, neurons=(neuron,)), None, weights)
    places: list[StreamId] = []
    for uid in (1, 2, 3):
        await asyncio.sleep(0.005)
        places.append(await history.append(make_event({uid: 0.5}), None, [hotkey(uid)]))
    await asyncio.sleep(0.005)
    digests = {uid: hotkey_digest(hotkey(uid)) for uid in (1, 2, 3, 7)}

    async def known() -> set[int]:
        found = await history.resolve(list(digests.values()))
        return {uid for uid, digest in digests.items() if digest in found}

    assert await history.forget_hotkeys([digests[7]], timedelta(0)) == 0, "its events are all there"
    await history.save("scores", checkpoint(places[1]), weights, ORIGIN)
    assert await history.trim(1, ("scores",)) == 2
    assert await history.forget_hotkeys([digests[7]]) == 0, "not for long"
    assert await known() == {1, 2, 3, 7}
    assert await history.forget_hotkeys([digests[1], digests[7], 12345], timedelta(0)) == 1
    assert await known() == {1, 3, 7}
    assert await history.forget_hotkeys([], timedelta(0)) == 0, "what was kept counts as sent"
    await asyncio.sleep(0.005)
    later = await history.append(make_event({3: 0.5}), None, [])
    await history.save("scores", checkpoint(later), weights, places[1])
    assert await history.trim(1, ("scores",)) == 1
    assert await history.forget_hotkeys([digests[3]], timedelta(0)) == 2
    assert await known() == {3}


async def test_a_waiting_read_wakes_up(history: History) -> None:
    reading = asyncio.create_task(history.read(ORIGIN, 10, timedelta(seconds=10)))
    await asyncio.sleep(0)
    event = make_event({1: 0.5})
    await history.append(event, None, [hotkey(1)])
    entries = await asyncio.wait_for(reading, 5)
    assert [entry.event for entry in entries] == [event]
    assert await history.read(entries[0].stream_id, 10, timedelta(milliseconds=20)) == []


async def test_a_lease_has_one_holder_and_a_growing_token(history: History) -> None:
    lease = await lease_of(history)
    assert await history.leader("weights") == "a"
    assert await history.acquire("weights", "b", TTL) is None
    assert await history.acquire("weights", "a", TTL) == lease
    assert await history.renew(lease, TTL)
    await history.release(lease)
    assert await history.leader("weights") is None
    other = await lease_of(history, holder="b")
    assert other.token > lease.token
    assert not await history.renew(lease, TTL)
    await history.release(lease)
    assert await history.leader("weights") == "b"


async def test_a_lease_runs_out(history: History) -> None:
    lease = await history.acquire("weights", "a", timedelta(milliseconds=30))
    assert lease is not None

    async def taken() -> Lease | None:
        return await history.acquire("weights", "b", TTL)

    other = await wait_until(taken, why="the lease of b")
    assert other.token == lease.token + 1
    assert not await history.renew(lease, TTL)


async def test_a_checkpoint_moves_only_from_where_it_stands(history: History) -> None:
    lease = await lease_of(history)
    saved = await history.save("scores", checkpoint(StreamId("5-0")), lease, ORIGIN)
    assert saved == msgspec.structs.replace(checkpoint(StreamId("5-0")), version=1)
    assert await history.load("scores") == saved
    with pytest.raises(LeaseLost):
        await history.save("scores", checkpoint(StreamId("6-0")), lease, ORIGIN)
    moved = await history.save("scores", checkpoint(StreamId("6-0"), b"next"), lease, StreamId("5-0"))
    assert (moved.version, moved.state) == (2, b"next")
    assert await history.version("scores") == 2


async def test_saving_the_same_again_is_saving_once(history: History) -> None:
    lease = await lease_of(history)
    first = await history.save("scores", checkpoint(StreamId("5-0")), lease, ORIGIN)
    again = await history.save("scores", checkpoint(StreamId("5-0")), lease, ORIGIN)
    assert again == first
    assert await history.load("scores") == first


async def test_a_stale_leader_can_write_nothing(history: History) -> None:
    stale = await lease_of(history)
    await history.release(stale)
    fresh = await lease_of(history, holder="b")
    metagraph = Metagraph(netuid=1, block=1, time_ms=1, neurons=())
    submission = Submission(
        id="s",
        time_ms=1,
        block=1,
        netuid=1,
        hotkey="h",
        uids=(1,),
        weights=(1.0,),
        values=(65535,),
        last_id="1-0",
        result="sent",
    )
    with pytest.raises(LeaseLost):
        await history.save("scores", checkpoint(StreamId("5-0")), stale, ORIGIN)
    with pytest.raises(LeaseLost):
        await history.publish(metagraph, difference(None, metagraph), stale)
    with pytest.raises(LeaseLost):
        await history.submit(submission, stale)
    assert await history.load("scores") is None
    assert await history.metagraph() is None
    assert await history.length() == 0
    assert await history.submissions(5) == []
    await history.submit(submission, fresh)
    assert [entry.submission for entry in await history.submissions(5)] == [submission]


async def test_a_snapshot_and_its_event_are_published_together(history: History) -> None:
    lease = await lease_of(history)
    neurons = tuple(
        Neuron(uid=u, hotkey=hotkey(u), coldkey="c", stake=2000.0 * (u == 0), permit=u == 0) for u in (0, 1)
    )
    first = Metagraph(netuid=1, block=10, time_ms=1, neurons=neurons)
    event = difference(None, first)
    assert event is not None
    place = await history.publish(first, event, lease)
    assert await history.metagraph() == first
    assert [e.event for e in await history.read(ORIGIN, 5)] == [event]
    assert await history.last_id() == place
    second = msgspec.structs.replace(first, block=20)
    assert difference(first, second) is None
    assert await history.publish(second, None, lease) is None
    assert await history.metagraph() == second
    assert await history.length() == 1
    assert await history.resolve([hotkey_digest(hotkey(1))]) == {hotkey_digest(hotkey(1)): hotkey(1)}


async def test_trimming_never_passes_the_slowest_fold(history: History) -> None:
    places = [await history.append(make_event({1: n / 10}), None, [hotkey(1)]) for n in range(10)]
    weights, gating = await lease_of(history), await lease_of(history, "gating")
    folds = ("scores", "gating:head")
    await history.save("scores", checkpoint(places[8]), weights, ORIGIN)
    assert await history.trim(2, folds) == 0, "a fold without a checkpoint holds everything back"
    await history.save("gating:head", checkpoint(places[3]), gating, ORIGIN)
    assert await history.trim(2, folds) == 4
    assert await history.trimmed() == places[3]
    assert [entry.stream_id for entry in await history.read(ORIGIN, 20)] == places[4:]
    assert await history.trim(6, folds) == 0
    await history.save("gating:head", checkpoint(places[9]), gating, places[3])
    assert await history.trim(2, folds) == 4
    assert [entry.stream_id for entry in await history.read(ORIGIN, 20)] == places[8:]


def test_an_event_of_fifty_uids_is_small() -> None:
    event = make_event({uid: uid / 50 for uid in range(50)}, flags=Flag.SCORED)
    from coremesh.events import decode, encode

    packed = encode(event)
    assert decode(packed) == event
    assert len(packed) < 2200
