"""What the miner needs of a language model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from coremesh.errors import CoremeshError

Turns = list[dict[str, str]]
"""A conversation: ``{"role": ..., "content": ...}`` in order."""


class BackendFailed(CoremeshError):
    """The language model gave no usable completion."""

    code = "backend_failed"
    status = 502
    default_remedy = "This is the miner's own trouble: ask another miner."


class Backend(Protocol):
    """A language model. Built without I/O, usable between ``start`` and ``close``."""

    async def start(self) -> None:
        """Make ready; raises BadModel or BadSetting when it never will be."""
        ...

    def stream(self, turns: Turns, *, timeout_s: float) -> AsyncGenerator[str, None]:
        """The completion of ``turns`` in pieces, as they come.

        Ends within about ``timeout_s``. Raises Busy when too many wait, DeadlineExceeded, BackendFailed or Unavailable;
        dropping the iterator (``aclose``) stops the work.
        """
        ...

    async def problem(self) -> str | None:
        """A sentence for ``/readyz`` when the model cannot answer, else None."""
        ...

    async def close(self) -> None:
        """Stop the work and free what it holds."""
        ...
