"""The miner client: one signed request to each of K hosts at once, every answer bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from time import monotonic
from types import TracebackType
from typing import Self

from coremesh.errors import CoremeshError
from coremesh.wire.adapters import Adapter, MinerRequest, RewardNotice
from services.querier.miners.answers import MinerAnswer
from services.querier.miners.exchange import Context
from services.querier.miners.fanout import DeltaListener, FanOut
from services.querier.miners.limits import MinerLimits, Target
from services.querier.miners.rewards import RewardCounts, RewardSender
from services.querier.miners.streaming import MinerStream

_SLACK_S = 1.0


class MinerClientClosed(CoremeshError):
    """The client was used outside its ``async with`` block."""

    code = "miner_client_closed"
    default_remedy = "Use the client inside `async with MinerClient(...)`."


class MinerClient:
    """Asks miners over ``adapter``; ``own_hotkey`` is never asked.

    An async context manager that belongs to the event loop it was entered on. Memory and sockets are bounded by
    ``limits`` however many requests it makes.
    """

    def __init__(self, adapter: Adapter, own_hotkey: str, limits: MinerLimits | None = None) -> None:
        self._adapter = adapter
        self._own_hotkey = own_hotkey
        self._limits = limits or MinerLimits()
        self._context: Context | None = None
        self._rewards: RewardSender | None = None
        self._running: set[FanOut] = set()

    async def __aenter__(self) -> Self:
        self._context = Context(self._limits, self._own_hotkey)
        self._rewards = RewardSender(self._context, self._adapter, self._running.add, self._running.discard)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        context, rewards = self._context, self._rewards
        self._context = self._rewards = None
        if rewards is not None:
            rewards.close()
        for fan_out in tuple(self._running):
            fan_out.cancel()
        if context is not None:
            await context.pool.close()

    def fan_out(
        self,
        targets: Sequence[Target],
        request: MinerRequest,
        *,
        deadline: float | None = None,
        on_delta: DeltaListener | None = None,
    ) -> FanOut:
        """Ask every target now; the result runs by itself until each has an outcome.

        Each miner has ``request.timeout_s`` from its own send. ``deadline``, in ``time.monotonic()``, ends the
        whole query whatever happens; by default it leaves time to connect on top of the timeout. ``on_delta``
        hears the text of streaming answers as it comes, and is meant for a single target. Raises MinerClientClosed.
        """
        context = self._context
        if context is None:
            raise MinerClientClosed("the miner client is not open")
        latest = monotonic() + request.timeout_s + self._limits.connect_timeout_s + _SLACK_S
        fan_out = FanOut(
            context,
            targets,
            [self._adapter.forward(request, stream=on_delta is not None)],
            request.timeout_s,
            latest if deadline is None else min(deadline, latest),
            self._running.discard,
            on_delta=on_delta,
        )
        self._running.add(fan_out)
        fan_out.start()
        return fan_out

    async def query(
        self, targets: Sequence[Target], request: MinerRequest, *, deadline: float | None = None
    ) -> list[MinerAnswer]:
        """Ask every target and await every outcome, in the order of the targets. Cancelling drops the query."""
        fan_out = self.fan_out(targets, request, deadline=deadline)
        try:
            return await fan_out.all()
        except asyncio.CancelledError:
            fan_out.cancel()
            raise

    def stream(self, target: Target, request: MinerRequest, *, deadline: float | None = None) -> MinerStream:
        """Ask one miner and hear its text as it comes; see MinerStream."""
        stream = MinerStream()
        stream.attach(self.fan_out([target], request, deadline=deadline, on_delta=stream.hear))
        return stream

    def send_rewards(self, notices: Iterable[tuple[Target, RewardNotice]]) -> None:
        """Tell miners what they earned, in the background; returns at once and never fails for a miner's sake.

        Raises ValueError for a reward that is not finite, and MinerClientClosed.
        """
        if self._rewards is None:
            raise MinerClientClosed("the miner client is not open")
        for target, notice in notices:
            self._rewards.put(target, notice)

    @property
    def rewards(self) -> RewardCounts:
        """What became of the rewards sent."""
        return self._rewards.counts if self._rewards is not None else RewardCounts()

    def gauges(self) -> dict[str, int]:
        """Sizes for the metrics: everything in here that could grow."""
        context, rewards = self._context, self._rewards
        if context is None or rewards is None:
            return dict.fromkeys(_GAUGES, 0)
        pool = context.pool
        sizes = (
            pool.sockets,
            pool.idle,
            pool.waiting,
            len(context.breakers),
            len(self._running),
            rewards.pending,
        )
        return dict(zip(_GAUGES, sizes, strict=True))


_GAUGES = ("sockets", "idle", "waiting", "breakers", "running", "rewards")
