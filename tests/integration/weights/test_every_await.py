"""The score fold is killed before and after every single thing that it awaits: calls of the history, loading, applying
and dumping the state, telling of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from coremesh.events import Change, Event, ForwardEvent, MetagraphEvent, decode_scored, pack
from coremesh.folding import FoldRunner
from coremesh.history import Checkpoint, Entry, Lease
from coremesh.history.page import Page
from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph
from coremesh.types import new_event_id
from services.weights import scores
from services.weights.fold import NAME, ROLE, ScoreFold
from services.weights.rules import SoftmaxEma
from services.weights.scores import ScoreState
from tests.events import hotkey, make_event
from tests.wait import wait_until


class Killed(BaseException):
    pass


class Fragile:
    """A history whose caller dies at one of its calls, before or after it took effect."""

    def __init__(self, history: RedisHistory, at: int) -> None:
        self._history = history
        self._at = at
        self._calls = itertools.count()
        self.killed = False

    def __getattr__(self, name: str) -> Any:
        return self._dying(getattr(self._history, name))

    def _dying(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            before, after = next(self._calls), next(self._calls)
            self._die(before)
            result = await method(*args, **kwargs)
            self._die(after)
            return result

        return call

    def fold(self) -> ScoreFold:
        """The score fold, dying at its own steps too."""
        fragile = self

        class FragileFold(ScoreFold):
            def load(self, state: bytes) -> ScoreState:
                return fragile.around(lambda: ScoreFold.load(self, state))

            def dump(self, state: ScoreState) -> bytes:
                return fragile.around(lambda: ScoreFold.dump(self, state))

            async def apply(self, state: ScoreState, entries: list[Entry]) -> ScoreState:
                return await fragile._dying(super().apply)(state, entries)

            def apply_page(self, state: ScoreState, page: Page) -> ScoreState:
                return fragile.around(lambda: ScoreFold.apply_page(self, state, page))

        return FragileFold(SoftmaxEma())

    def around(self, work: Callable[[], Any]) -> Any:
        """Do ``work``, unless the process is dead by then."""
        before, after = next(self._calls), next(self._calls)
        self._die(before)
        result = work()
        self._die(after)
        return result

    async def told(self, state: ScoreState, checkpoint: Checkpoint, lease: Lease) -> None:
        """What the service does after a save."""
        await self._dying(self._history.ping)()

    def _die(self, point: int) -> None:
        # A dead process makes no further call either.
        if self.killed or point == self._at:
            self.killed = True
            raise Killed


def story() -> list[Event]:
    news = MetagraphEvent(
        id=new_event_id(),
        time_ms=0,
        block=9,
        size=4,
        changes=(Change(1, hotkey(1), "new"),),
        excluded_=pack([0], "<u2"),
    )
    forwards = [make_event({1: 1.0, 2: 0.5 * n, 3: None}) for n in range(6)]
    return [*forwards[:3], news, *forwards[3:]]


async def tell(history: RedisHistory, events: list[Event]) -> None:
    lease = await history.acquire("teller", "teller", timedelta(seconds=5))
    assert isinstance(lease, Lease)
    for event in events:
        if isinstance(event, ForwardEvent):
            await history.append(event, None, [])
        else:
            await history.publish(Metagraph(netuid=1, block=1, time_ms=0, neurons=()), event, lease)


def runner(history: Any, holder: str, pages: bool = False) -> FoldRunner[ScoreState]:
    fold = history.fold() if isinstance(history, Fragile) else ScoreFold(SoftmaxEma())
    return FoldRunner(
        history,
        fold,
        name=NAME,
        role=ROLE,
        holder=holder,
        batch=2,
        wait=timedelta(milliseconds=10),
        ttl=timedelta(milliseconds=150),
        on_state=history.told if isinstance(history, Fragile) else None,
        decode=decode_scored,
        apply_page=fold.apply_page if pages else None,
    )


async def end(task: asyncio.Task[None]) -> None:
    """Cancel until it is over: redis-py swallows a cancellation that meets its timeout of 0 seconds."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.2)
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(("pages", "sweep"), [(False, 2), (True, 2), (True, 4)])
async def test_killed_at_every_call_the_scores_are_those_of_an_uninterrupted_run(
    redis_history: RedisHistory, pages: bool, sweep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pages and not ScoreFold(SoftmaxEma()).has_pages:
        pytest.skip("the kernel is not compiled")
    monkeypatch.setattr("coremesh.folding.PAGE", 2)
    monkeypatch.setattr("coremesh.folding.SWEEP", sweep)
    monkeypatch.setattr("coremesh.folding.SAVE_BEHIND_S", 0.0)
    events = story()
    whole = scores.dump(scores.fold(ScoreState(), events, SoftmaxEma()))
    kills = 0
    for at in range(1000):
        await redis_history._redis.flushall()
        await tell(redis_history, events)
        last = await redis_history.last_id()
        fragile = Fragile(redis_history, at)
        first = asyncio.create_task(runner(fragile, f"first-{at}", pages).run())

        async def finished(last: str = last) -> bool:
            checkpoint = await redis_history.load(NAME)
            return checkpoint is not None and checkpoint.last_id == last

        async def over(first: asyncio.Task[None] = first) -> bool:
            return first.done() or await finished()

        await wait_until(over, every=0.005)
        done = await finished()
        await end(first)
        if not fragile.killed:
            assert done
            break
        kills += 1
        heir = asyncio.create_task(runner(redis_history, "heir", pages).run())
        await wait_until(finished, every=0.005, why=f"folded to the end after a kill at call {at}")
        await end(heir)
        checkpoint = await redis_history.load(NAME)
        assert checkpoint is not None
        assert checkpoint.state == whole, f"killed at call {at}"
    # acquire, load, trimmed; apply for each of four batches, and read or sweep, dump, save and tell for as many of them
    # as one sweep takes: before and after.
    assert kills >= 2 * (3 + 4 + 4 * (8 // sweep)) - 1
