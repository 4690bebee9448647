"""One miner's text while it is still coming."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator


class LiveText:
    """Hears a miner and tells one listener.

    Nothing is told before ``min_chars`` have come: until then another miner can still take its place. What is
    buffered is bounded by the client's cap on an answer.
    """

    def __init__(self, min_chars: int) -> None:
        self._min_chars = min_chars
        self._pieces: deque[str] = deque()
        self._chars = 0
        self._news = asyncio.Event()
        self._over = False
        self.begun = asyncio.Event()
        """Enough has come for the miner to be the one."""
        self.good = False
        """Whether the whole text was a good completion; known when it is over."""

    def hear(self, text: str) -> None:
        """Called for each piece."""
        self._pieces.append(text)
        self._chars += len(text.strip())
        if self._chars >= self._min_chars:
            self.begun.set()
        self._news.set()

    def end(self, *, good: bool) -> None:
        """Called when the miner's outcome is known."""
        self.good = good
        self._over = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        """The pieces, until the outcome is known."""
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self._over:
                return
            self._news.clear()
            await self._news.wait()
