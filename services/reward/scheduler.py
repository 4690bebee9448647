"""Between the HTTP surface and the models: one compute thread, two lanes, bounded, nobody left hanging."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import Any, TypeVar

import structlog

from coremesh.errors import Busy, DeadlineExceeded, Unavailable
from coremesh.service.priority import step_back
from services.reward import metrics
from services.reward.engine.turns import giving_way
from services.reward.work import Op

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

TRAINING_SHARE = 0.75
"""Of the queue at most so much is training's, so that a user always finds a place."""
UNWELL_AFTER = 8
"""Failed steps in a row after which the service says that it is not ready."""

TRACED_FAILURES = 2
QUIET_S = 10.0
"""So long after the last interactive request training has the device to itself."""
STEP_BACK = 10
"""Lower than anything else that users wait for on the same machine: models take all that they are given."""
LINGER_S = 0.003
"""So long the thread stays with a user's request between two ops of it."""


class Dropped(Exception):
    """Nobody waits for the step that runs any more."""


class Lane(IntEnum):
    """Whose work comes first."""

    INTERACTIVE = 0
    TRAINING = 1

    @property
    def label(self) -> str:
        """For metrics."""
        return self.name.lower()


@dataclass(eq=False)
class _Ticket:
    """A list of items for one op, on its way."""

    op: Op[Any, Any]
    lane: Lane
    items: Sequence[Any]
    costs: list[int]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Any]]
    deadline_s: float | None
    queued_s: float
    results: list[Any] = field(default_factory=list)
    taken: int = 0
    over: bool = False
    """Answered, failed, or nobody waits any more."""


@dataclass(frozen=True)
class _Slice:
    ticket: _Ticket
    start: int
    stop: int

    @property
    def items(self) -> Sequence[Any]:
        return self.ticket.items[self.start : self.stop]


class Scheduler:
    """Runs ops on a thread of its own, in steps of about ``step_tokens``.

    A step takes what is queued when the thread is free (nothing ever waits for a batch to fill), from the
    interactive lane first, and joins neighbours of the same op and lane; larger lists are cut between items.
    A training step lets interactive work go first wherever the engine asks for it (``engine.turns``): between
    two layers, calls or texts. So users wait for one layer of one call at most, and training is not cut up for
    their sake. That call has at most ``call_tokens`` while users are about: until ``QUIET_S`` after the last
    one. A step that nobody waits for any more ends at the same places. ``queue`` bounds the admitted requests and
    ``queue_bytes`` their texts. ``is_fatal`` says which errors of an op mean that the process must end; any
    other is its request's alone. ``watch`` must run as a loop of the service: it dies with the thread, and when
    a step takes longer than ``stuck_after``.
    """

    def __init__(
        self,
        *,
        step_tokens: int,
        call_tokens: int | None = None,
        queue: int,
        queue_bytes: int,
        is_fatal: Callable[[BaseException], bool] = lambda error: False,
        stuck_after: timedelta = timedelta(minutes=5),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step_tokens = step_tokens
        self._call_tokens = call_tokens
        self._interactive_s = -QUIET_S
        self._linger_until_s = 0.0
        self._queue = queue
        self._queue_bytes = queue_bytes
        self._is_fatal = is_fatal
        self._stuck_after_s = stuck_after.total_seconds()
        self._clock = clock
        self._changed = threading.Condition()
        self._lanes: tuple[deque[_Ticket], ...] = tuple(deque() for _ in Lane)
        self._admitted = dict.fromkeys(Lane, 0)
        self._bytes = 0
        self._closing = False
        self._death: BaseException | None = None
        self._step_since_s: float | None = None
        self._failures = 0
        self._request_s = 0.5
        self._running: tuple[_Slice, ...] = ()
        self._users_s = 0.0
        self._thread = threading.Thread(target=self._work, name="reward-compute", daemon=True)

    def start(self) -> None:
        """Start the compute thread."""
        self._thread.start()

    def close(self, timeout: timedelta = timedelta(seconds=10)) -> None:
        """Stop after the step that runs; what is queued fails with Unavailable. A hung step is left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout.total_seconds())
        self._fail_all(Unavailable("the reward service is stopping"))

    @contextmanager
    def admit(self, lane: Lane, size: int) -> Iterator[None]:
        """A place in the queue for one request with ``size`` bytes of text. Raises Busy, Unavailable."""
        self._refuse_when_dead()
        limit = self._queue if lane is Lane.INTERACTIVE else max(1, int(self._queue * TRAINING_SHARE))
        waiting = sum(self._admitted.values())
        if waiting >= limit or (waiting and self._bytes + size > self._queue_bytes):
            metrics.REFUSED.labels(lane.label).inc()
            raise Busy(
                f"{waiting} requests are waiting for the reward models",
                retry_after_s=min(60.0, max(1.0, waiting * self._request_s)),
            )
        if lane is Lane.INTERACTIVE:
            self._interactive_s = self._clock()
        self._count(lane, 1, size)
        start = self._clock()
        try:
            yield
        finally:
            self._count(lane, -1, -size)
            self._request_s += 0.1 * ((self._clock() - start) / max(1, waiting) - self._request_s)

    def lane(self, lane: Lane, deadline: timedelta | None = None) -> LaneRunner:
        """A Runner for one request: its work is dropped when ``deadline`` from now has passed."""
        return LaneRunner(self, lane, None if deadline is None else self._clock() + deadline.total_seconds())

    async def run(self, op: Op[T, R], items: Sequence[T], lane: Lane, deadline_s: float | None) -> list[R]:
        """Results in order. Raises what the op raises, DeadlineExceeded, Unavailable. Cancelling drops the rest."""
        if not items:
            return []
        loop = asyncio.get_running_loop()
        ticket = _Ticket(
            op=op,
            lane=lane,
            items=items,
            costs=[op.cost(item) for item in items],
            loop=loop,
            future=loop.create_future(),
            deadline_s=deadline_s,
            queued_s=self._clock(),
        )
        with self._changed:
            self._refuse_when_dead()
            self._lanes[lane].append(ticket)
            self._changed.notify()
        try:
            return await ticket.future
        except asyncio.CancelledError:
            ticket.over = True
            metrics.DROPPED.labels("caller gone").inc()
            raise

    async def watch(self) -> None:
        """Raises RuntimeError when the compute thread has died or hangs. Else never ends."""
        while True:
            if self._death is not None:
                raise RuntimeError("the compute thread of the reward service died") from self._death
            if self._stuck_for() > self._stuck_after_s:
                self._fail_all(Unavailable("the reward models hang"))
                raise RuntimeError(f"one step of the reward models takes over {self._stuck_after_s:g} s")
            await asyncio.sleep(0.1)

    async def problem(self) -> str | None:
        """For ``/readyz``."""
        if self._death is not None or not self._thread.is_alive():
            return "the compute thread is not running"
        if self._stuck_for() > self._stuck_after_s / 4:
            return f"one step takes {self._stuck_for():.0f} s already"
        if self._failures >= UNWELL_AFTER:
            return f"the last {self._failures} steps failed"
        return None

    def _count(self, lane: Lane, requests: int, size: int) -> None:
        self._admitted[lane] += requests
        self._bytes += size
        metrics.QUEUE_DEPTH.labels(lane.label).set(self._admitted[lane])
        metrics.QUEUE_BYTES.set(self._bytes)

    def _refuse_when_dead(self) -> None:
        if self._death is not None or self._closing:
            raise Unavailable("the reward service is stopping")

    def _stuck_for(self) -> float:
        since = self._step_since_s
        return 0.0 if since is None else self._clock() - since

    # The compute thread.

    def _work(self) -> None:
        step_back(STEP_BACK)
        try:
            with giving_way(self._give_way):
                while len(step := self._take()) > 0:
                    self._running = step
                    self._do(step)
                    self._step_since_s = None
                    self._running = ()
        except BaseException as error:
            # Everything that the thread owes is answered before anybody learns that it is dead.
            self._step_since_s = None
            self._death = error
            self._fail_all(Unavailable("the reward models failed; the service starts anew"))

    def _take(self) -> tuple[_Slice, ...]:
        """The next step; empty when closing. Blocks while there is nothing to do."""
        with self._changed:
            while True:
                step = self._take_interactive() or (
                    () if self._closing else self._fill(self._lanes[Lane.TRAINING], Lane.TRAINING)
                )
                if step or self._closing:
                    return step
                self._changed.wait()

    def _take_interactive(self) -> tuple[_Slice, ...]:
        """The next step of the interactive lane; empty when there is none, or closing. Lingers."""
        while not self._closing:
            step = self._fill(self._lanes[Lane.INTERACTIVE], Lane.INTERACTIVE)
            linger_s = self._linger_until_s - self._clock()
            if step or linger_s <= 0 or not self._admitted[Lane.INTERACTIVE]:
                return step
            self._changed.wait(linger_s)
        return ()

    def _give_way(self) -> int | None:
        """Called by the engine within a step: interactive work first. See ``engine.turns.Hook``.

        Raises Dropped when nobody waits for the step any more.
        """
        step = self._running
        lane = step[0].ticket.lane
        self._step_since_s = began = self._clock()
        with self._changed:
            if all(self._is_over(part.ticket) for part in step if part.ticket.lane is lane):
                raise Dropped
            users = self._take_interactive() if lane is Lane.TRAINING else ()
        while users:
            self._running = (*users, *step)
            self._do(users)
            with self._changed:
                users = self._take_interactive()
            self._running = step
            self._step_since_s = self._clock()
        self._users_s += self._step_since_s - began
        return self._call_tokens if self._step_since_s - self._interactive_s < QUIET_S else None

    def _fill(self, waiting: deque[_Ticket], lane: Lane) -> tuple[_Slice, ...]:
        step: list[_Slice] = []
        room = self._step_tokens
        for ticket in list(waiting):
            if self._is_over(ticket):
                waiting.remove(ticket)
                continue
            if step and ticket.op is not step[0].ticket.op:
                continue
            start = stop = ticket.taken
            while stop < len(ticket.items) and (ticket.costs[stop] <= room or (not step and stop == start)):
                room -= ticket.costs[stop]
                stop += 1
            if stop == start:
                break
            if start == 0:
                metrics.WAIT_SECONDS.labels(lane.label).observe(self._clock() - ticket.queued_s)
            step.append(_Slice(ticket, start, stop))
            ticket.taken = stop
            if stop == len(ticket.items):
                waiting.remove(ticket)
        return tuple(step)

    def _is_over(self, ticket: _Ticket) -> bool:
        if not ticket.over and ticket.deadline_s is not None and self._clock() > ticket.deadline_s:
            metrics.DROPPED.labels("deadline").inc()
            self._fail(ticket, DeadlineExceeded("the deadline passed while the work was queued"))
        return ticket.over

    def _do(self, step: tuple[_Slice, ...]) -> None:
        op = step[0].ticket.op
        items = [item for part in step for item in part.items]
        metrics.STEP_TOKENS.labels(op.name).observe(sum(sum(p.ticket.costs[p.start : p.stop]) for p in step))
        self._step_since_s = began = self._clock()
        users_s = self._users_s
        try:
            results = list(op.run(items))
            if len(results) != len(items):
                raise RuntimeError(f"{op.name} gave {len(results)} results for {len(items)} items")
        except Dropped:
            return
        except Exception as error:
            if self._is_fatal(error):
                raise
            # A future cannot hold a StopIteration, and its caller would wait for ever.
            self._on_failure(step, RuntimeError(op.name) if isinstance(error, StopIteration) else error)
            return
        finally:
            spent_s = self._clock() - began - (self._users_s - users_s)
            metrics.STEP_SECONDS.labels(op.name).observe(spent_s)
        self._failures = 0
        if step[0].ticket.lane is Lane.INTERACTIVE:
            # Its request mostly goes on with another op in a moment; a training step in between would double
            # its time.
            self._linger_until_s = self._clock() + LINGER_S
        for part in step:
            self._deliver(part, results[: part.stop - part.start])
            del results[: part.stop - part.start]

    def _on_failure(self, step: tuple[_Slice, ...], error: Exception) -> None:
        if len(step) > 1:
            # One of them spoils it: each on its own, so that the others do not pay.
            for part in step:
                self._do((part,))
            return
        self._failures += 1
        for part in step:
            metrics.STEP_FAILURES.labels(part.ticket.op.name).inc()
            # The same failure again and again needs no traceback again and again.
            trace = error if self._failures <= TRACED_FAILURES else None
            # Its class alone: what a tokenizer says may quote the text. The traceback says the rest.
            log.error("a step failed", op=part.ticket.op.name, reason=type(error).__name__, exc_info=trace)
            with self._changed:
                self._fail(part.ticket, error)

    def _deliver(self, part: _Slice, results: list[Any]) -> None:
        ticket = part.ticket
        ticket.results += results
        if part.stop == len(ticket.items) and not ticket.over:
            ticket.over = True
            _settle(ticket, lambda: ticket.future.set_result(ticket.results))

    def _fail(self, ticket: _Ticket, error: Exception) -> None:
        if not ticket.over:
            ticket.over = True
            _settle(ticket, lambda: ticket.future.set_exception(error))

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            for part in self._running:
                self._fail(part.ticket, error)
            for lane in self._lanes:
                for ticket in lane:
                    self._fail(ticket, error)
                lane.clear()


class LaneRunner:
    """The Runner of one request."""

    def __init__(self, scheduler: Scheduler, lane: Lane, deadline_s: float | None) -> None:
        self._scheduler = scheduler
        self._lane = lane
        self._deadline_s = deadline_s

    async def run(self, op: Op[T, R], items: Sequence[T]) -> list[R]:
        """See Scheduler.run."""
        return await self._scheduler.run(op, items, self._lane, self._deadline_s)


def _settle(ticket: _Ticket, settle: Callable[[], None]) -> None:
    def on_loop() -> None:
        if not ticket.future.done():
            settle()

    try:
        ticket.loop.call_soon_threadsafe(on_loop)
    except RuntimeError:
        log.info("an answer came after the event loop had closed")
