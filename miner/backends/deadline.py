"""A deadline for a stream of text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from coremesh.errors import DeadlineExceeded


async def within(pieces: AsyncGenerator[str, None], timeout_s: float) -> AsyncGenerator[str, None]:
    """``pieces``, closed at the end; raises DeadlineExceeded when they are not done after ``timeout_s``.

    The time-out is set anew around each piece: one that spans a yield would belong to the task that asked for the
    first piece, and a response is streamed from another.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise DeadlineExceeded(f"the model did not finish within {timeout_s:g} s") from None
            yield piece
    finally:
        await pieces.aclose()
