"""Rewards on their way back to the miners: bounded, unhurried, in nobody's way."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from coremesh.wire.adapters import Adapter, RewardNotice
from services.querier.miners.exchange import Context
from services.querier.miners.fanout import FanOut
from services.querier.miners.limits import Target


@dataclass(slots=True)
class RewardCounts:
    """What became of the notices since the start."""

    queued: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0


class RewardSender:
    """Sends notices a few at a time. A full queue drops its oldest notice: the newest teaches most."""

    def __init__(
        self,
        context: Context,
        adapter: Adapter,
        track: Callable[[FanOut], None],
        untrack: Callable[[FanOut], None],
    ) -> None:
        self._context = context
        self._adapter = adapter
        self._track = track
        self._untrack = untrack
        self._queue: deque[tuple[Target, RewardNotice]] = deque()
        self._in_flight = 0
        self._closed = False
        self.counts = RewardCounts()

    @property
    def pending(self) -> int:
        """Notices waiting or on their way."""
        return len(self._queue) + self._in_flight

    def put(self, target: Target, notice: RewardNotice) -> None:
        """Queue one notice. Raises ValueError for a reward that is not finite."""
        if not all(map(math.isfinite, notice.rewards)):
            raise ValueError("a reward is not a finite number")
        if self._closed:
            return
        self.counts.queued += 1
        self._queue.append((target, notice))
        if len(self._queue) > self._context.limits.max_rewards_queued:
            self._queue.popleft()
            self.counts.dropped += 1
        if self._in_flight == 0:
            self._in_flight += 1
            self._context.loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._in_flight -= 1
        self._pump()

    def _pump(self) -> None:
        limits = self._context.limits
        while self._queue and self._in_flight < limits.max_rewards_in_flight and not self._closed:
            target, notice = self._queue.popleft()
            call = self._adapter.backward(notice)
            if call is None:
                self.counts.dropped += 1
                continue
            timeout_s = limits.rewards_timeout_s
            deadline = monotonic() + timeout_s + limits.connect_timeout_s
            fan_out = FanOut(
                self._context, [target], [call], timeout_s, deadline, self._on_over, background=True
            )
            self._in_flight += 1
            self._track(fan_out)
            fan_out.start()

    def _on_over(self, fan_out: FanOut) -> None:
        self._untrack(fan_out)
        self._in_flight -= 1
        if fan_out.so_far()[0].ok:
            self.counts.delivered += 1
        else:
            self.counts.failed += 1
        # From the loop, not from here: a queue of miners that fail at once must not become a deep recursion.
        if self._queue and self._in_flight < self._context.limits.max_rewards_in_flight:
            self._in_flight += 1
            self._context.loop.call_soon(self._begin)

    def close(self) -> None:
        """Forget what is queued."""
        self._closed = True
        self.counts.dropped += len(self._queue)
        self._queue.clear()
