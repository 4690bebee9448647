"""A fold survives everything that can happen to its leader or to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from coremesh.errors import HistoryUnavailable
from coremesh.events import ForwardEvent
from coremesh.folding import FoldRunner, Follower
from coremesh.history import Checkpoint, Entry, Lease
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN
from tests.events import hotkey, make_event
from tests.redis_server import RedisServer
from tests.wait import wait_until


class Seen:
    """Folds the ids of events into a list: any lost or twice counted event shows."""

    format = "seen/1"

    def initial(self) -> list[str]:
        return []

    def load(self, state: bytes) -> list[str]:
        return state.decode().split()

    def dump(self, state: list[str]) -> bytes:
        return " ".join(state).encode()

    async def apply(self, state: list[str], entries: list[Entry]) -> list[str]:
        for entry in entries:
            await asyncio.sleep(0)
            assert isinstance(entry.event, ForwardEvent)
            state.append(entry.event.id)
        return state


class Witness:
    def __init__(self) -> None:
        self.states: list[list[str]] = []

    async def __call__(self, state: list[str], checkpoint: Checkpoint, lease: Lease | None = None) -> None:
        self.states.append(list(state))

    @property
    def last(self) -> list[str]:
        return self.states[-1] if self.states else []


@asynccontextmanager
async def running(
    history: RedisHistory, holder: str, witness: Witness, ttl: float = 0.6
) -> AsyncIterator[FoldRunner[list[str]]]:
    runner = FoldRunner(
        history,
        Seen(),
        name="seen",
        role="seen",
        holder=holder,
        on_state=witness,
        batch=7,
        wait=timedelta(milliseconds=50),
        ttl=timedelta(seconds=ttl),
    )
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def fill(history: RedisHistory, count: int) -> list[str]:
    events = [make_event({1: 0.5}) for _ in range(count)]
    for event in events:
        await history.append(event, None, [hotkey(1)])
    return [event.id for event in events]


async def test_every_event_is_folded_once_across_many_restarts(redis_history: RedisHistory) -> None:
    ids = await fill(redis_history, 40)
    for _ in range(12):
        witness = Witness()
        async with running(redis_history, "a", witness):
            await wait_until(lambda w=witness: w.states)
        ids += await fill(redis_history, 3)
    witness = Witness()
    async with running(redis_history, "a", witness):
        await wait_until(lambda: witness.last == ids, why="all events in order")
    stored = await redis_history.load("seen")
    assert stored is not None
    assert Seen().load(stored.state) == ids
    assert stored.last_id == await redis_history.last_id()


async def test_the_second_instance_takes_over(redis_history: RedisHistory) -> None:
    one, two = Witness(), Witness()
    ids = await fill(redis_history, 5)
    async with running(redis_history, "b", two):
        async with running(redis_history, "a", one) as first:
            await wait_until(lambda: one.last == ids or two.last == ids)
            leader = await redis_history.leader("seen")
            assert leader in ("a", "b")
            assert first.status.leading == (leader == "a")
        ids += await fill(redis_history, 5)
        await wait_until(lambda: two.last == ids, why="b takes over from a")


async def test_a_leader_that_lost_its_lease_stops_and_refolds(redis_history: RedisHistory) -> None:
    witness = Witness()
    ids = await fill(redis_history, 5)
    async with running(redis_history, "a", witness) as runner:
        await wait_until(lambda: witness.last == ids)
        # Another leader comes and goes while this one does not know: its token is stale from now on.
        await redis_history._redis.delete(redis_history.keys.lease("seen"))
        usurper = await redis_history.acquire("seen", "usurper", timedelta(milliseconds=100))
        assert usurper is not None
        ids += await fill(redis_history, 5)
        await wait_until(lambda: witness.last == ids, why="folded again under a new lease")
        assert runner.status.leading


async def test_followers_serve_what_the_leader_saved(redis_history: RedisHistory) -> None:
    leader, follower = Witness(), Witness()
    watching = Follower(
        redis_history, Seen(), name="seen", on_state=follower, every=timedelta(milliseconds=20)
    )
    task = asyncio.create_task(watching.run())
    ids = await fill(redis_history, 3)
    async with running(redis_history, "a", leader):
        await wait_until(lambda: follower.last == ids)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_gap_is_noticed_and_folding_goes_on(redis_history: RedisHistory) -> None:
    await fill(redis_history, 10)
    assert await redis_history.trim(4, ()) == 6
    witness = Witness()
    async with running(redis_history, "a", witness) as runner:
        await wait_until(lambda: len(witness.last) == 4)
        assert runner.status.gaps == 1


async def test_another_format_folds_anew_from_the_start(redis_history: RedisHistory) -> None:
    ids = await fill(redis_history, 10)
    witness = Witness()
    async with running(redis_history, "a", witness):
        await wait_until(lambda: witness.last == ids)

    class Other(Seen):
        format = "seen/2"

    again = Witness()
    runner = FoldRunner(
        redis_history,
        Other(),
        name="seen",
        role="seen",
        holder="b",
        on_state=again,
        wait=timedelta(milliseconds=50),
    )
    task = asyncio.create_task(runner.run())
    await wait_until(lambda: again.last == ids, why="the same events under the new format")
    stored = await redis_history.load("seen")
    assert stored is not None
    assert (stored.format, Other().load(stored.state)) == ("seen/2", ids)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_restart_of_redis_loses_nothing(tmp_path_factory, redis_server: RedisServer) -> None:
    import shutil
    import tempfile
    from pathlib import Path

    directory = Path(tempfile.mkdtemp(prefix="coremesh-redis-"))
    server = RedisServer(directory)
    server.start()
    history = RedisHistory(server.url, netuid=1)
    try:
        witness = Witness()
        ids = await fill(history, 10)
        async with running(history, "a", witness):
            await wait_until(lambda: witness.last == ids)
            for _ in range(2):
                server.kill()
                await asyncio.sleep(0.1)
                server.start()

                async def back() -> bool:
                    return await history.length() == len(ids)

                await wait_until(back)
                ids += await fill(history, 10)
                await wait_until(lambda: witness.last == ids, why="folding goes on after the restart")
        assert await history.read(ORIGIN, 1000)
    finally:
        await history.close()
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def test_reading_many_outlives_a_restart_of_redis(redis_server: RedisServer) -> None:
    server = RedisServer(redis_server.directory / "many")
    server.directory.mkdir(exist_ok=True)
    server.start()
    history = RedisHistory(server.url, netuid=1, timeout=timedelta(seconds=1))
    try:
        ids = await fill(history, 250)
        assert len(await history.read(ORIGIN, 1000)) == 250
        server.stop()  # cleanly: with appendfsync everysec a kill may lose a second
        with pytest.raises(HistoryUnavailable):
            await history.read(ORIGIN, 1000)
        server.start()
        assert [entry.event.id for entry in await history.read(ORIGIN, 1000)] == ids
        server.stop()
        server.start()  # behind the back of the connection that is kept
        assert [entry.event.id for entry in await history.read(ORIGIN, 1000)] == ids
    finally:
        await history.close()
        server.stop()


async def test_a_damaged_checkpoint_is_folded_anew_and_followers_keep_what_they_have(
    redis_history: RedisHistory,
) -> None:
    ids = []
    for n in range(10):
        event = make_event({n % 3: 0.5})
        await redis_history.append(event, None, [hotkey(n % 3)])
        ids.append(event.id)
    followed, leader = Witness(), Witness()
    follower = Follower(redis_history, Seen(), name="seen", on_state=followed)
    async with running(redis_history, "one", leader):
        await wait_until(lambda: leader.last == ids)
    assert await follower.look()
    lease = await redis_history.acquire("seen", "vandal", timedelta(seconds=5))
    assert lease is not None
    at = await redis_history.last_id()
    damaged = Checkpoint(last_id=at, state=b"\xff\xfe", format=Seen.format)
    await redis_history.save("seen", damaged, lease, at)
    await redis_history.release(lease)
    assert not await follower.look()
    assert followed.last == ids
    again = Witness()
    async with running(redis_history, "two", again):
        await wait_until(lambda: again.last == ids)
    assert await follower.look()
    assert followed.last == ids
