"""One miner's text as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from services.querier.miners.answers import MinerAnswer
from services.querier.miners.fanout import FanOut


class MinerStream:
    """An async iterator over pieces of text; a miner that does not stream gives one piece.

    ``answer()`` is the outcome as in a plain query: text that was already heard may still end in a failure. What is
    buffered for a slow listener is bounded by the cap on the miner's body.
    """

    def __init__(self) -> None:
        self._pieces: deque[str] = deque()
        self._news = asyncio.Event()
        self._fan_out: FanOut | None = None

    def attach(self, fan_out: FanOut) -> None:
        """Called once by the client."""
        self._fan_out = fan_out

    def hear(self, text: str) -> None:
        """Called by the client for each piece."""
        self._pieces.append(text)
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        assert self._fan_out is not None
        over = asyncio.ensure_future(self._fan_out.all())
        over.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                while self._pieces:
                    yield self._pieces.popleft()
                if over.done():
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            over.cancel()

    async def answer(self) -> MinerAnswer:
        """The outcome, once it is over."""
        assert self._fan_out is not None
        return (await self._fan_out.all())[0]

    def cancel(self) -> None:
        """Stop listening: the connection is dropped."""
        if self._fan_out is not None:
            self._fan_out.cancel()
