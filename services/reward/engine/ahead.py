"""Work done on a thread of its own while what came before it is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

WAITING = 2
"""Results that are made before they are asked for."""


def ahead(make: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`make` of each item, in order, made up to `WAITING` ahead. Raises what `make` raises, where it belongs.

    The thread ends when the last result is taken, or the iterator closed.
    """
    with ThreadPoolExecutor(1, "reward-ahead") as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > WAITING:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
