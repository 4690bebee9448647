"""The miner client as a forward sees it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType

from coremesh.contracts import ChatMessage
from coremesh.metagraph import Neuron
from coremesh.settings import QuerierSettings
from coremesh.wire.adapters import Adapter, MinerRequest, RewardNotice
from services.querier.miners import FanOut, MinerAnswer, MinerClient, MinerLimits, Target, Tls
from services.querier.miners.addresses import parse_networks
from services.querier.ports import Reply

CONNECT_S = 0.5
"""Seconds on top of the miners' timeout for connections to be opened: a whole fan-out lasts no longer."""
REWARD_TIMEOUT_S = 4.0
CLOSE_S = 3.0


class MinerFanout:
    """A Fanout over MinerClient. An async context manager."""

    def __init__(self, adapter: Adapter, settings: QuerierSettings, *, own_hotkey: str) -> None:
        limits = MinerLimits(
            allow_loopback=settings.allow_loopback,
            networks=parse_networks(settings.allow_networks),
            max_body_bytes=settings.max_body_bytes,
            min_completion_chars=settings.min_completion_chars,
        )
        self._client = MinerClient(adapter, own_hotkey, limits)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> MinerFanout:
        await self._stack.enter_async_context(self._client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A peer that does not read may keep a socket from closing; the process need not wait for it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._stack.aclose()

    def gauges(self) -> dict[str, int]:
        """Sizes of all in the client that could grow."""
        return self._client.gauges()

    async def ask(
        self,
        neurons: Sequence[Neuron],
        messages: tuple[ChatMessage, ...],
        timeout_s: float,
        on_delta: Callable[[str], None] | None = None,
        expected_s: Sequence[float] = (),
    ) -> AsyncGenerator[Reply, None]:
        """See Fanout.ask. A signature takes long enough that it matters who waits for those of all others."""
        places = {neuron.uid: index for index, neuron in enumerate(neurons)}
        deadline = asyncio.get_running_loop().time() + timeout_s + CONNECT_S
        targets = [_target(neuron) for neuron in neurons]
        request = _request(messages, timeout_s)
        fan_outs: list[FanOut] = []
        if on_delta is not None:
            fan_outs.append(self._client.fan_out(targets[:1], request, deadline=deadline, on_delta=on_delta))
            del targets[:1]
        if expected_s:
            targets.sort(key=lambda target: -expected_s[places[target.uid]])
        if targets:
            fan_outs.append(self._client.fan_out(targets, request, deadline=deadline))
        try:
            async for answer in _merged(fan_outs):
                yield Reply(places[answer.uid], answer.status, answer.completion, answer.latency_s)
        finally:
            for fan_out in fan_outs:
                fan_out.cancel()

    def reward(
        self,
        neurons: Sequence[Neuron],
        messages: tuple[ChatMessage, ...],
        completions: Sequence[str],
        rewards: Sequence[float],
    ) -> None:
        """See Fanout.reward."""
        request = _request(messages, REWARD_TIMEOUT_S)
        self._client.send_rewards(
            (_target(neuron), RewardNotice(request, completion, (reward,)))
            for neuron, completion, reward in zip(neurons, completions, rewards, strict=True)
        )


def _target(neuron: Neuron) -> Target:
    # A neuron certificate is one byte that names the algorithm, then the key.
    tls = Tls(public_key=neuron.certificate[2:]) if len(neuron.certificate) > 2 else None
    return Target(neuron.uid, neuron.hotkey, neuron.ip, neuron.port, tls)


def _request(messages: tuple[ChatMessage, ...], timeout_s: float) -> MinerRequest:
    return MinerRequest(
        tuple(message.role for message in messages), tuple(message.content for message in messages), timeout_s
    )


async def _merged(fan_outs: Sequence[FanOut]) -> AsyncGenerator[MinerAnswer, None]:
    """The answers of all, in the order of arrival."""
    if len(fan_outs) == 1:
        async for answer in fan_outs[0]:
            yield answer
        return
    arrived: asyncio.Queue[MinerAnswer | None] = asyncio.Queue()

    async def pump(fan_out: FanOut) -> None:
        async for answer in fan_out:
            arrived.put_nowait(answer)
        arrived.put_nowait(None)

    pumps = [asyncio.create_task(pump(fan_out)) for fan_out in fan_outs]
    try:
        running = len(pumps)
        while running:
            answer = await arrived.get()
            if answer is None:
                running -= 1
            else:
                yield answer
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
