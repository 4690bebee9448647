"""The history on a real cluster: all keys of a subnet lie with one member, and scripts find it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from coremesh.errors import HistoryUnavailable
from coremesh.events import Transcript
from coremesh.history import Checkpoint
from coremesh.history.callers import RedisCallers
from coremesh.history.probe import probe
from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph, Neuron, difference
from coremesh.types import ORIGIN, hotkey_digest
from tests.events import hotkey, make_event
from tests.integration.redis.servers import Server, cluster
from tests.wait import wait_until

NETUIDS = (1, 2, 7)
"""Of three members each holds one."""


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    servers = cluster(tmp_path_factory.mktemp("cluster"))
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def url(members: list[Server]) -> str:
    for server in members:
        server.client().flushall()
    # One address that answers is enough.
    return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in (1, members[0].port))


@pytest.fixture
async def histories(url: str) -> AsyncIterator[dict[int, RedisHistory]]:
    found = {netuid: RedisHistory(url, netuid) for netuid in NETUIDS}
    yield found
    for history in found.values():
        await history.close()


def holder(members: list[Server], key: str) -> Server:
    (found,) = [server for server in members if server.client().dbsize() and key in _keys(server)]
    return found


def _keys(server: Server) -> set[str]:
    return {key.decode() for key in server.client().keys("*")}  # pyright: ignore


@pytest.mark.parametrize("netuid", NETUIDS)
async def test_a_subnet_lives_whole_with_one_member(
    members: list[Server], histories: dict[int, RedisHistory], netuid: int
) -> None:
    history = histories[netuid]
    await history.ping()
    event = make_event({1: 0.5, 2: None})
    place = await history.append(
        event, Transcript(id=event.id, completions=("a", "")), [hotkey(1), hotkey(2)]
    )
    assert await history.append(event, None, []) == place
    (read,) = await history.read(ORIGIN, 10)
    (waited,) = await history.read(ORIGIN, 10, timedelta(seconds=1))
    assert read == waited
    assert (read.stream_id, read.event) == (place, event)
    assert len(await history.read(ORIGIN, 1000)) == 1
    assert await history.read(place, 10, timedelta(milliseconds=50)) == []
    assert (await history.find(event.id), await history.last_id()) == (read, place)
    assert (await history.transcript(event.id)) == Transcript(id=event.id, completions=("a", ""))
    lease = await history.acquire("weights", "me", timedelta(seconds=30))
    assert lease is not None
    assert await history.acquire("weights", "you", timedelta(seconds=30)) is None
    neurons = (Neuron(uid=0, hotkey=hotkey(0), coldkey="c", ip="1.1.1.1", port=1),)
    metagraph = Metagraph(netuid=netuid, block=1, time_ms=1, neurons=neurons)
    announced = await history.publish(metagraph, difference(None, metagraph), lease)
    assert announced == await history.last_id()
    draft = Checkpoint(last_id=place, state=b"s", format="f")
    assert (await history.save("scores", draft, lease, ORIGIN)).version == 1
    loaded = await history.load("scores")
    assert loaded is not None
    assert (loaded.last_id, loaded.state) == (place, b"s")
    assert await history.trim(1, ("scores",)) == 1
    assert await history.trimmed() == place
    assert await history.renew(lease, timedelta(seconds=30))
    member = holder(members, history.keys.events)
    member.client().hset(history.keys.hotkeys, "7", "of before hotkeys had a time")  # pyright: ignore
    assert await history.forget_hotkeys([]) == 0
    await asyncio.sleep(0.005)
    assert await history.forget_hotkeys([7], timedelta(0)) == 2
    assert set(await history.resolve([7, hotkey_digest(hotkey(0))])) == {7, hotkey_digest(hotkey(0))}
    ours = {key for server in members for key in _keys(server) if f"{{{netuid}}}" in key}
    assert len(ours) >= 8
    assert ours <= _keys(member)


async def test_members_share_the_subnets(
    members: list[Server], histories: dict[int, RedisHistory], url: str
) -> None:
    for history in histories.values():
        await history.append(make_event({1: 0.5}), None, [])
    assert probe(url, timedelta(seconds=5)).version.count(".") == 2
    assert len({holder(members, history.keys.events).port for history in histories.values()}) > 1


async def test_callers_and_their_limits_work_on_a_cluster(url: str) -> None:
    callers = RedisCallers(url, 1)
    key, record = await callers.create("someone")
    assert [one.id for one in await callers.records()] == [record.id]
    found = await callers.record(record.id)
    assert found is not None
    assert found[0].is_key(key)
    limits = {"record": found[1], "per_minute": 1, "concurrent": 1, "held": timedelta(seconds=30)}
    assert (await callers.admit(record.id, "t1", **limits)).result == "ok"
    assert (await callers.admit(record.id, "t2", **limits)).result == "concurrent"
    await callers.release(record.id, "t1")
    assert (await callers.admit(record.id, "t3", **limits)).result == "rate"
    assert await callers.add("5Hotkey", 1, 1)
    assert not await callers.add("5Hotkey", 1, 1)
    await callers.close()


async def test_a_cluster_that_is_away_is_one_kind_of_error(tmp_path: Path) -> None:
    history = RedisHistory("redis+cluster://127.0.0.1:1", 1, timeout=timedelta(seconds=1))
    with pytest.raises(HistoryUnavailable):
        await history.ping()
    with pytest.raises(HistoryUnavailable):
        await history.append(make_event({1: 0.5}), None, [])
    await history.close()


async def test_a_member_that_comes_back_is_found_again(tmp_path: Path) -> None:
    servers = cluster(tmp_path / "c")
    try:
        history = RedisHistory(
            f"redis+cluster://127.0.0.1:{servers[0].port}", 1, timeout=timedelta(seconds=1)
        )
        await history.append(make_event({1: 0.5}), None, [])
        member = holder(servers, history.keys.events)
        member.kill()
        with pytest.raises(HistoryUnavailable):
            await history.append(make_event({1: 0.5}), None, [])
        number = servers.index(member)
        again = Server(
            tmp_path / "again",
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
            *("--cluster-config-file", str(tmp_path / "c" / str(number) / "nodes.conf")),
            port=member.port,
        )
        servers[number] = again

        async def appended() -> bool:
            try:
                await history.append(make_event({1: 0.5}), None, [])
            except HistoryUnavailable:
                return False
            return True

        await wait_until(appended, timeout=60)
        await history.close()
    finally:
        for server in servers:
            server.kill()
