"""The scheduler, with ops that the test opens and closes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest

from coremesh.errors import Busy, DeadlineExceeded, Unavailable
from coremesh.service.loops import Loops
from services.reward.engine.turns import give_way
from services.reward.scheduler import Lane, Scheduler
from tests.wait import wait_until


class Double:
    """Doubles numbers; each costs itself; waits at a gate; raises for what it is told to."""

    def __init__(self, name: str = "double") -> None:
        self.name = name
        self.steps: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.poison: dict[int, BaseException] = {}

    def cost(self, item: int) -> int:
        return item

    def run(self, items: Sequence[int]) -> list[int]:
        self.steps.append(list(items))
        assert self.gate.wait(10)
        for item in items:
            if item in self.poison:
                raise self.poison[item]
        return [2 * item for item in items]


class Fatal(Exception):
    """The device is gone."""


@contextmanager
def running(**more: object) -> Iterator[Scheduler]:
    settings = {
        "step_tokens": 10,
        "queue": 8,
        "queue_bytes": 1000,
        "is_fatal": lambda e: isinstance(e, Fatal),
    }
    scheduler = Scheduler(**{**settings, **more})  # type: ignore[arg-type]
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.close(timedelta(seconds=5))


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    with running() as made:
        yield made


async def held(scheduler: Scheduler) -> tuple[Double, asyncio.Task[list[int]]]:
    """An op that keeps the thread busy until its gate opens."""
    op = Double("holder")
    op.gate.clear()
    task = asyncio.create_task(scheduler.run(op, [1], Lane.INTERACTIVE, None))
    await wait_until(lambda: op.steps)
    return op, task


async def queued(op: Double, scheduler: Scheduler, items: list[int], lane: Lane) -> asyncio.Task[list[int]]:
    task = asyncio.create_task(scheduler.run(op, items, lane, None))
    await asyncio.sleep(0)
    return task


async def test_results_come_in_order(scheduler: Scheduler):
    assert await scheduler.run(Double(), list(range(1, 30)), Lane.TRAINING, None) == list(range(2, 60, 2))
    assert await scheduler.run(Double(), [], Lane.TRAINING, None) == []


async def test_large_work_is_cut_and_small_work_joined(scheduler: Scheduler):
    holder, first = await held(scheduler)
    op = Double()
    tasks = [await queued(op, scheduler, items, Lane.TRAINING) for items in ([4, 4, 4], [3], [50], [2])]
    holder.gate.set()
    assert await asyncio.gather(*tasks) == [[8, 8, 8], [6], [100], [4]]
    assert op.steps == [[4, 4], [4, 3], [50], [2]]
    await first


async def test_interactive_work_goes_before_what_is_left_of_training(scheduler: Scheduler):
    op, user = Double("train"), Double("user")
    op.gate.clear()
    training = await queued(op, scheduler, [9] * 5, Lane.TRAINING)
    await wait_until(lambda: op.steps)
    asked = await queued(user, scheduler, [9], Lane.INTERACTIVE)
    done: list[str] = []
    training.add_done_callback(lambda _: done.append("training"))
    asked.add_done_callback(lambda _: done.append(f"user after {len(op.steps)} step"))
    op.gate.set()
    await asyncio.gather(training, asked)
    assert done[0].startswith("user")
    assert user.steps == [[9]]
    assert len(op.steps) == 5


async def test_a_users_request_is_not_parted_by_training():
    order: list[str] = []

    class Named(Double):
        def run(self, items: Sequence[int]) -> list[int]:
            order.append(self.name)
            return super().run(items)

    # Time stands still: the thread lingers for as long as the user's request is there.
    with running(clock=lambda: 0.0) as scheduler:
        holder, first = await held(scheduler)
        training = await queued(Named("training"), scheduler, [9, 9], Lane.TRAINING)
        with scheduler.admit(Lane.INTERACTIVE, 1):
            asked = await queued(Named("user"), scheduler, [1], Lane.INTERACTIVE)
            holder.gate.set()
            await asked
            await scheduler.run(Named("user again"), [1], Lane.INTERACTIVE, None)
        await asyncio.gather(training, first)
    assert order == ["user", "user again", "training", "training"]


class Polite(Double):
    """Lets others go first before each item, and keeps how many tokens it was then told to take."""

    def __init__(self) -> None:
        super().__init__("polite")
        self.told: list[int | None] = []
        self.done: list[int] = []

    def run(self, items: Sequence[int]) -> list[int]:
        found: list[int] = []
        for item in items:
            self.told.append(give_way())
            found += super().run([item])
            self.done.append(item)
        return found


async def test_a_training_step_lets_users_go_first_wherever_it_can():
    with running(step_tokens=100, call_tokens=5) as scheduler:
        op, user = Polite(), Double("user")
        op.gate.clear()
        training = await queued(op, scheduler, [1, 2, 3], Lane.TRAINING)
        await wait_until(lambda: op.steps)
        with scheduler.admit(Lane.INTERACTIVE, 1):
            asked = [await queued(user, scheduler, [n], Lane.INTERACTIVE) for n in (7, 8)]
            seen: list[list[int]] = []
            asked[1].add_done_callback(lambda _: seen.append(list(op.done)))
            user.gate.clear()
            op.gate.set()
            await wait_until(lambda: user.steps)
            assert op.done == [1]
            user.gate.set()
            assert await asyncio.gather(*asked) == [[14], [16]]
        assert await training == [2, 4, 6]
    assert user.steps == [[7, 8]]
    assert op.steps == [[1], [2], [3]]


async def test_calls_are_small_while_users_are_about():
    now = [0.0]
    with running(step_tokens=100, call_tokens=5, clock=lambda: now[0]) as scheduler:
        op = Polite()
        await scheduler.run(op, [1], Lane.TRAINING, None)
        with scheduler.admit(Lane.INTERACTIVE, 1):
            await scheduler.run(op, [1], Lane.INTERACTIVE, None)
        await scheduler.run(op, [1], Lane.TRAINING, None)
        now[0] = 60.0
        await scheduler.run(op, [1], Lane.TRAINING, None)
    assert op.told == [None, 5, 5, None]


@pytest.mark.parametrize("lane", Lane)
async def test_a_step_that_nobody_waits_for_any_more_ends(lane: Lane):
    with running(step_tokens=100) as scheduler:
        op = Polite()
        op.gate.clear()
        gone = await queued(op, scheduler, [1, 2, 3], lane)
        await wait_until(lambda: op.steps)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        stays = await queued(Double(), scheduler, [5], Lane.TRAINING)
        op.gate.set()
        assert await stays == [10]
        assert op.done == [1]
        assert await scheduler.problem() is None


async def test_a_step_that_gives_way_does_not_count_as_hanging():
    now = [0.0]

    class Slow(Polite):
        def run(self, items: Sequence[int]) -> list[int]:
            now[0] += 0.9
            give_way()
            now[0] += 0.9
            return super().run(items)

    with running(stuck_after=timedelta(seconds=1), clock=lambda: now[0]) as scheduler:
        died = await watched(scheduler)
        op = Slow()
        op.gate.clear()
        task = await queued(op, scheduler, [1], Lane.TRAINING)
        await wait_until(lambda: op.steps)
        await asyncio.sleep(0.3)
        assert died() == []
        op.gate.set()
        assert await task == [2]


async def test_a_user_whose_work_kills_the_thread_leaves_no_training_hanging():
    with running(step_tokens=100) as scheduler:
        op, user = Polite(), Double("user")
        user.poison = {7: Fatal("device lost")}
        op.gate.clear()
        training = await queued(op, scheduler, [1, 2], Lane.TRAINING)
        await wait_until(lambda: op.steps)
        asked = await queued(user, scheduler, [7], Lane.INTERACTIVE)
        op.gate.set()
        results = await asyncio.wait_for(asyncio.gather(training, asked, return_exceptions=True), 5)
    assert [type(result) for result in results] == [Unavailable] * 2


async def test_lanes_are_not_joined(scheduler: Scheduler):
    holder, first = await held(scheduler)
    op = Double()
    training = await queued(op, scheduler, [2], Lane.TRAINING)
    asked = await queued(op, scheduler, [3], Lane.INTERACTIVE)
    holder.gate.set()
    await asyncio.gather(training, asked, first)
    assert op.steps == [[3], [2]]


async def test_one_that_fails_does_not_spoil_its_neighbours(scheduler: Scheduler):
    holder, first = await held(scheduler)
    op = Double()
    op.poison = {3: ValueError("three")}
    tasks = [await queued(op, scheduler, items, Lane.TRAINING) for items in ([2], [3], [4])]
    holder.gate.set()
    results = await asyncio.gather(*tasks, first, return_exceptions=True)
    assert results[0] == [4]
    assert isinstance(results[1], ValueError)
    assert results[2] == [8]
    assert await scheduler.problem() is None


async def test_a_stop_iteration_leaves_nobody_hanging(scheduler: Scheduler):
    op = Double()
    op.poison = {1: StopIteration()}
    with pytest.raises(RuntimeError):
        await asyncio.wait_for(scheduler.run(op, [1], Lane.TRAINING, None), 5)


async def test_steps_that_keep_failing_make_it_unready(scheduler: Scheduler):
    op = Double()
    op.poison = {1: ValueError("again")}
    for _ in range(8):
        with pytest.raises(ValueError, match="again"):
            await scheduler.run(op, [1], Lane.TRAINING, None)
    assert await scheduler.problem() == "the last 8 steps failed"
    assert await scheduler.run(op, [2], Lane.TRAINING, None) == [4]
    assert await scheduler.problem() is None


async def test_cancelled_work_is_dropped(scheduler: Scheduler):
    holder, first = await held(scheduler)
    op = Double()
    gone = await queued(op, scheduler, [1, 2], Lane.TRAINING)
    stays = await queued(op, scheduler, [3], Lane.TRAINING)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    holder.gate.set()
    assert await stays == [6]
    await first
    assert op.steps == [[3]]


async def test_work_past_its_deadline_is_dropped():
    now = [0.0]
    with running(clock=lambda: now[0]) as scheduler:
        holder, first = await held(scheduler)
        op = Double()
        runner = scheduler.lane(Lane.TRAINING, timedelta(seconds=5))
        late = asyncio.create_task(runner.run(op, [1]))
        await asyncio.sleep(0)
        now[0] = 6.0
        holder.gate.set()
        with pytest.raises(DeadlineExceeded):
            await late
        await first
    assert op.steps == []


async def test_a_full_queue_refuses_and_keeps_places_for_users(scheduler: Scheduler):
    with ExitStack() as places:
        for _ in range(6):
            places.enter_context(scheduler.admit(Lane.TRAINING, 1))
        with pytest.raises(Busy) as caught, scheduler.admit(Lane.TRAINING, 1):
            pass
        assert 1 <= caught.value.retry_after_s <= 60
        for _ in range(2):
            places.enter_context(scheduler.admit(Lane.INTERACTIVE, 1))
        with pytest.raises(Busy), scheduler.admit(Lane.INTERACTIVE, 1):
            pass
    with scheduler.admit(Lane.TRAINING, 1):
        pass


async def test_bytes_are_bounded_but_one_request_always_fits(scheduler: Scheduler):
    with scheduler.admit(Lane.TRAINING, 5000), pytest.raises(Busy), scheduler.admit(Lane.INTERACTIVE, 1):
        pass
    with scheduler.admit(Lane.TRAINING, 600), scheduler.admit(Lane.TRAINING, 300), pytest.raises(Busy):
        scheduler.admit(Lane.TRAINING, 200).__enter__()


async def watched(scheduler: Scheduler) -> Callable[[], list[str]]:
    died: list[str] = []
    loops = Loops(lambda name, error: died.append(f"{name}: {error}"))
    loops.start("reward-compute", scheduler.watch())
    return lambda: died


async def test_a_crash_ends_the_process_and_answers_everybody(scheduler: Scheduler):
    died = await watched(scheduler)
    holder, first = await held(scheduler)
    op = Double()
    op.poison = {1: Fatal("device lost")}
    tasks = [await queued(op, scheduler, items, Lane.TRAINING) for items in ([1], [2], [30])]
    holder.gate.set()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    await first
    assert [type(result) for result in results] == [Unavailable] * 3
    await wait_until(died)
    assert died() == ["reward-compute: the compute thread of the reward service died"]
    assert await scheduler.problem() == "the compute thread is not running"
    with pytest.raises(Unavailable):
        await scheduler.run(op, [5], Lane.TRAINING, None)
    with pytest.raises(Unavailable), scheduler.admit(Lane.TRAINING, 1):
        pass


async def test_even_an_exit_in_the_thread_answers_everybody(scheduler: Scheduler):
    op = Double()
    op.poison = {1: SystemExit(3)}
    with pytest.raises(Unavailable):
        await asyncio.wait_for(scheduler.run(op, [1], Lane.TRAINING, None), 5)


async def test_a_step_that_hangs_ends_the_process():
    with running(stuck_after=timedelta(milliseconds=200)) as scheduler:
        died = await watched(scheduler)
        holder, first = await held(scheduler)
        await wait_until(died)
        with pytest.raises(Unavailable):
            await first
        assert died() == ["reward-compute: one step of the reward models takes over 0.2 s"]
        holder.gate.set()


async def test_closing_answers_everybody():
    with running() as scheduler:
        holder, first = await held(scheduler)
        waiting = await queued(Double(), scheduler, [1], Lane.TRAINING)
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close, timedelta(seconds=5)))
        await asyncio.sleep(0.05)
        holder.gate.set()
        await closing
        assert await first == [2]
        with pytest.raises(Unavailable):
            await waiting
