"""A new generation grows up beside the serving one, on a real Redis, and takes over when it may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np

from coremesh.history.protocol import Checkpoint
from coremesh.history.redis import RedisHistory
from coremesh.service import Loops
from coremesh.settings import GatingSettings
from coremesh.types import ORIGIN
from services.gating.fold import GatingFold
from services.gating.generation import FOLD, NEXT, NEXT_ROLE, REACH, ROLE, Generations, Place
from services.gating.learning import GatingLearning
from tests.events import make_event
from tests.wait import wait_until

TTL = timedelta(milliseconds=600)


class Encoder:
    """Vectors that depend on the text's length; waits while ``held``."""

    dim = 4

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.open = asyncio.Event()
        self.open.set()

    async def encode(self, texts: Sequence[str]) -> np.ndarray:
        await self.open.wait()
        found = np.array([[np.cos(len(t)), np.sin(len(t)), 0.3, 0.1] for t in texts], dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@dataclass
class Replica:
    """One process's part of it."""

    generations: Generations
    encoder: Encoder
    heads: list[tuple[int, Checkpoint]] = field(default_factory=list)

    @property
    def learnt(self) -> int:
        return self.heads[-1][0] if self.heads else 0


@asynccontextmanager
async def replica(
    history: RedisHistory, name: str, identity: str, *, held: bool = False
) -> AsyncIterator[Replica]:
    encoder = Encoder(identity)
    if held:
        encoder.open.clear()

    async def on_state(fold: GatingFold, checkpoint: Checkpoint) -> None:
        assert fold.head.encoder == identity  # nobody ever serves another generation's head
        made.heads.append((fold.learnt, checkpoint))

    generations = Generations(
        history,
        GatingLearning(GatingSettings(), encoder),
        holder=name,
        on_state=on_state,
        every=timedelta(milliseconds=20),
        save_every=timedelta(0),
        batch=16,
        ttl=TTL,
    )
    made = Replica(generations, encoder)
    deaths: list[str] = []
    async with Loops(lambda name, error: deaths.append(name)) as loops:
        loops.start("generations", generations.run())
        yield made
    assert deaths == []


async def append(history: RedisHistory, count: int) -> None:
    for at in range(count):
        await history.append(make_event({0: 0.9, 1: 0.1}, question="x" * (1 + at % 7)), None, [])


async def serving(history: RedisHistory) -> str:
    head = await history.load(FOLD)
    return head.format.rsplit("/", 1)[-1] if head else ""


async def test_the_old_serves_until_it_stops_and_the_new_takes_over_with_all_it_learnt(
    redis_history: RedisHistory,
) -> None:
    await append(redis_history, REACH + 40)
    async with replica(redis_history, "old", "old") as old:
        await wait_until(lambda: old.learnt == REACH + 40, why="the first generation learnt")
    async with (
        replica(redis_history, "old", "old") as old,
        replica(redis_history, "new", "new", held=True) as new,
    ):
        await wait_until(lambda: new.generations.place is Place.BESIDE and old.learnt == REACH + 40)
        await wait_until(lambda: old.generations.status.leading)
        assert new.generations.lacking == (
            "the head of another encoder or rule serves, and ours has not caught up yet"
        )
        assert new.heads == []
        new.encoder.open.set()
        await wait_until(lambda: new.learnt == REACH + 40, why="the new one caught up")
        assert new.generations.lacking is None
        await append(redis_history, 5)
        await wait_until(lambda: old.learnt == new.learnt == REACH + 45, why="both go on side by side")
        assert await serving(redis_history) == "old"
        assert (await redis_history.leader(ROLE), await redis_history.leader(NEXT_ROLE)) == ("old", "new")
        before = await redis_history.version(FOLD)
        async with replica(redis_history, "newer", "new") as second:
            await wait_until(
                lambda: second.learnt == REACH + 45, why="another of the new ones is ready at once"
            )
            second_first = second.heads[0][0]
    assert second_first == REACH + 45
    async with replica(redis_history, "new", "new") as new:
        await wait_until(lambda: new.generations.status.leading and new.generations.place is Place.SERVING)
        assert await serving(redis_history) == "new"
        assert await redis_history.version(FOLD) > before
        await append(redis_history, 3)
        await wait_until(lambda: new.learnt == REACH + 48, why="it goes on from where it took over")
        head = await redis_history.load(FOLD)
        assert head is not None
        assert head.last_id == await redis_history.last_id()


async def test_one_that_was_superseded_serves_on_and_never_fights_back(redis_history: RedisHistory) -> None:
    await append(redis_history, 10)
    async with replica(redis_history, "old", "old") as old:
        await wait_until(lambda: old.learnt == 10)
        # The old leader hangs: its lease runs out, and a new one that has caught up takes it.
        async with replica(redis_history, "new", "new") as new:
            await wait_until(lambda: new.learnt == 10)
            lease = await redis_history.acquire(ROLE, "old", TTL)
            assert lease is not None
            await redis_history.release(lease)
            assert await redis_history.acquire(ROLE, "new", TTL) is not None
            await wait_until(lambda: new.generations.status.leading, why="the new one leads")
            await wait_until(lambda: old.generations.place is Place.SUPERSEDED)
            await append(redis_history, 5)
            await wait_until(lambda: new.learnt == 15)
            assert (old.learnt, old.generations.lacking) == (10, None)
            assert await redis_history.leader(NEXT_ROLE) is None
        assert await redis_history.leader(ROLE) is None
        await asyncio.sleep(2 * TTL.total_seconds())
        assert (await serving(redis_history), await redis_history.leader(ROLE)) == ("new", None)


async def test_a_stale_next_of_another_generation_is_folded_anew(redis_history: RedisHistory) -> None:
    await append(redis_history, 10)
    async with replica(redis_history, "a", "a") as first:
        await wait_until(lambda: first.learnt == 10)
    for name in ("b", "c", "b"):
        async with replica(redis_history, name, name) as later:
            await wait_until(lambda: later.generations.status.leading and later.learnt == 10)

            async def serves(name: str = name) -> bool:
                return await serving(redis_history) == name

            # Who leads has yet to put its own head in the place of the other's.
            await wait_until(serves, why=f"the head of {name} serves")
            left = await redis_history.load(NEXT)
            assert left is not None
            assert left.format.endswith(name)


async def test_with_no_events_left_it_takes_over_at_once(redis_history: RedisHistory) -> None:
    lease = await redis_history.acquire(ROLE, "gone", TTL)
    assert lease is not None
    other = Checkpoint(last_id="5-0", state=b"of old", format="gating/0/other/x")
    await redis_history.save(FOLD, other, lease, ORIGIN)
    async with replica(redis_history, "new", "new") as new:
        await wait_until(lambda: new.generations.status.leading)
        await append(redis_history, 3)
        await wait_until(lambda: new.learnt == 3)

        async def taken_over() -> bool:
            return await serving(redis_history) == "new"

        await wait_until(taken_over, why="the serving head is of the new generation")


def test_what_changes_the_head_changes_its_generation() -> None:
    encoder = Encoder("e")
    formats = {
        GatingLearning(GatingSettings(**how), Encoder(identity)).format
        for how, identity in (
            ({}, "e"),
            ({}, "f"),
            ({"rule": "rls"}, "e"),
            ({"rule": "original"}, "e"),
            ({"rule": "original", "learning_rate": 0.1}, "e"),
            ({"rule": "original", "momentum": 0.1}, "e"),
        )
    }
    assert len(formats) == 6
    assert GatingLearning(GatingSettings(learning_rate=0.1), encoder).format in formats
