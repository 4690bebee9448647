"""One prompt, K miners: started at once, awaited as the caller likes, complete in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from time import monotonic
from typing import cast

from coremesh.wire.adapters import Call
from services.querier.miners.answers import MinerAnswer
from services.querier.miners.exchange import Context, Exchange, head_of
from services.querier.miners.limits import Target

_SLICE = 32
"""Requests signed in one go: about 2 ms, then the loop gets a turn and early answers are read."""
_TICK_S = 0.001
_STALL_S = 0.005
_MAX_FORGIVEN_S = 0.25
DeltaListener = Callable[[str], None]


class FanOut:
    """A running query. It goes on by itself; awaiting it, or giving up on awaiting it, changes nothing of that.

    Made by ``MinerClient.fan_out``. One timer serves the whole batch; no request has a task of its own unless it must
    connect.
    """

    def __init__(
        self,
        context: Context,
        targets: Sequence[Target],
        calls: Sequence[Call],
        timeout_s: float,
        deadline: float,
        on_over: Callable[[FanOut], None],
        *,
        on_delta: DeltaListener | None = None,
        background: bool = False,
    ) -> None:
        """``calls``: one for all targets, or one for each. ``deadline`` is in ``time.monotonic()``."""
        self._loop = context.loop
        self._timeout_s = timeout_s
        self._deadline = deadline
        self._on_over = on_over
        self._answers: list[MinerAnswer | None] = [None] * len(targets)
        self._order: list[int] = []
        self._ok = 0
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._eager = False  # whether anybody waits for less than everything
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._forgiven = False
        self._next = 0
        heads = [head_of(call) for call in calls]
        shared = len(calls) == 1
        self._exchanges: list[Exchange | None] = [
            Exchange(
                context,
                self,
                index,
                target,
                calls[0 if shared else index],
                heads[0 if shared else index],
                timeout_s,
                deadline,
                on_delta=on_delta,
                background=background,
            )
            for index, target in enumerate(targets)
        ]

    def start(self) -> None:
        """Begin. Not from the constructor, so that whoever keeps the object has it before it can be over."""
        if not self._exchanges:
            self._on_over(self)
            return
        self._arm(min(monotonic() + self._timeout_s, self._deadline))
        self._start_slice()

    def _start_slice(self) -> None:
        exchanges = self._exchanges[self._next : self._next + _SLICE]
        self._next += len(exchanges)
        for exchange in exchanges:
            if exchange is not None:
                exchange.start()
        if self._next < len(self._exchanges):
            self._loop.call_soon(self._start_slice)

    # -- what the exchanges report ---------------------------------------------------------------------------

    def on_done(self, index: int, answer: MinerAnswer) -> None:
        """One more answer."""
        self._exchanges[index] = None
        self._answers[index] = answer
        self._order.append(index)
        self._ok += answer.ok
        if self._waiters and (self._eager or self.over):
            self._wake()
        if self.over:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._on_over(self)

    def _wake(self) -> None:
        waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        for waiter in self._waiters:
            ok, arrived, future = waiter
            if self.over or self._ok >= ok or len(self._order) >= arrived:
                if not future.done():
                    future.set_result(None)
            elif not future.done():
                waiting.append(waiter)
        self._waiters = waiting
        self._eager = any(min(ok, arrived) <= len(self._answers) for ok, arrived, _ in waiting)

    # -- time --------------------------------------------------------------------------------------------------

    def _arm(self, at: float) -> None:
        self._timer_at = at
        # uvloop's clock is a cached count of milliseconds: too coarse to time miners by, so it only sleeps for us.
        self._timer = self._loop.call_later(max(0.0, at - monotonic()) + _TICK_S, self._expire)

    def _expire(self) -> None:
        now = monotonic()
        late = now - self._timer_at
        if late > _STALL_S and not self._forgiven and now < self._deadline:
            # The loop stalled: answers may lie in the sockets unread. Read them before judging anybody.
            self._forgiven = True
            self._timer = self._loop.call_later(min(late, _MAX_FORGIVEN_S), self._expire)
            return
        self._forgiven = False
        upcoming = self._deadline
        for exchange in tuple(self._exchanges):
            if exchange is None:
                continue
            if now >= exchange.due:
                exchange.expire()
            else:
                # What is not yet sent cannot time out sooner than a whole timeout from now.
                due = exchange.due if exchange.sent else now + self._timeout_s
                upcoming = min(upcoming, due)
        if not self.over:
            self._arm(upcoming)

    # -- for the caller ----------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether every miner's outcome is known."""
        return len(self._order) == len(self._answers)

    def so_far(self) -> list[MinerAnswer]:
        """The outcomes known by now, in the order of the targets."""
        return [answer for answer in self._answers if answer is not None]

    async def first(self, m: int, grace_s: float = 0.0) -> list[MinerAnswer]:
        """What is known once ``m`` good completions have arrived and ``grace_s`` more have passed, or all is over.

        In the order of the targets; stragglers go on and are in ``all()``.
        """
        await self._wait(ok=m)
        if grace_s > 0 and not self.over:
            try:
                async with asyncio.timeout(grace_s):
                    await self._wait()
            except TimeoutError:
                pass
        return self.so_far()

    async def all(self) -> list[MinerAnswer]:
        """Every outcome, in the order of the targets."""
        await self._wait()
        return cast("list[MinerAnswer]", list(self._answers))

    async def __aiter__(self) -> AsyncIterator[MinerAnswer]:
        """The outcomes in the order in which they arrive."""
        seen = 0
        while seen < len(self._answers):
            if seen == len(self._order):
                await self._wait(arrived=seen + 1)
            answer = self._answers[self._order[seen]]
            assert answer is not None
            seen += 1
            yield answer

    async def _wait(self, *, ok: int | None = None, arrived: int | None = None) -> None:
        """Until so many are good or have arrived; with neither, until all is over."""
        never = len(self._answers) + 1
        wanted_ok = never if ok is None else ok
        wanted = never if arrived is None else arrived
        if self.over or self._ok >= wanted_ok or len(self._order) >= wanted:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((wanted_ok, wanted, future))
        self._eager = self._eager or min(wanted_ok, wanted) < never
        await future

    def cancel(self) -> None:
        """Drop what has not come; it counts as NOT_SENT."""
        for exchange in tuple(self._exchanges):
            if exchange is not None:
                exchange.cancel()
