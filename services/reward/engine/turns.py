"""Letting others go first: long work asks between its pieces.

Between two texts, two layers or two calls of a model the engine calls `give_way`. By default nothing happens; whoever
runs several kinds of work on one thread sets a hook there, which may do other work in between (with the same models:
the engine keeps no state of a call anywhere but in that call) or end this one by raising.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Hook = Callable[[], int | None]
"""Gives the most tokens that the next call of a model should have for somebody who may come; None: any number."""


class _Here(threading.local):
    hook: Hook | None = None


_here = _Here()


def give_way() -> int | None:
    """Let others go first on this thread; what the hook gives. Raises what the hook raises."""
    return None if _here.hook is None else _here.hook()


def paced(tokens: int) -> int:
    """`give_way`, then the most tokens for the next call: `tokens`, or fewer while somebody may come."""
    most = give_way()
    return tokens if most is None else min(tokens, most)


@contextmanager
def giving_way(hook: Hook) -> Iterator[None]:
    """Set the hook of this thread."""
    before, _here.hook = _here.hook, hook
    try:
        yield
    finally:
        _here.hook = before
