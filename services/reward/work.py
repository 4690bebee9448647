"""Pieces of work for the compute thread, and who runs them.

Whatever takes time in proportion to the input (models, but also cleaning and counting text) is an ``Op`` over a
list of items. The scheduler cuts the list where it likes, joins lists of several requests for the same op, and
knows nothing of models; the stack knows nothing of queues.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from services.reward.engine.turns import give_way

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

CHARS_PER_TOKEN = 4
"""Good enough to cut work into steps; the engine itself counts tokens."""


class Op(Protocol[T_contra, R_co]):
    """One kind of work. Items are independent: results do not depend on how a list is cut or joined."""

    @property
    def name(self) -> str:
        """For metrics: one of a handful."""
        ...

    def cost(self, item: T_contra) -> int:
        """About how many tokens an item is for a model; at least 1. Cheap, and never raises."""
        ...

    def run(self, items: Sequence[T_contra]) -> Sequence[R_co]:
        """One result an item, in order. Called on the compute thread."""
        ...


class Runner(Protocol):
    """Whoever runs ops for one request."""

    async def run(self, op: Op[T, R], items: Sequence[T]) -> list[R]:
        """The results, in the order of the items. Raises what the op raises, or DeadlineExceeded."""
        ...


class TextOp(Generic[T, R]):
    """A plain function of a text (or of something that holds one), as an op."""

    PER_TOKEN = 16
    """Counting text is so many times cheaper than reading it with a model."""

    def __init__(self, name: str, work: Callable[[T], R], chars: Callable[[T], int]) -> None:
        self.name = name
        self._work = work
        self._chars = chars

    def cost(self, item: T) -> int:
        """By the number of characters."""
        return 1 + self._chars(item) // (CHARS_PER_TOKEN * self.PER_TOKEN)

    def run(self, items: Sequence[T]) -> list[R]:
        """Each on its own."""
        found: list[R] = []
        for item in items:
            give_way()
            found.append(self._work(item))
        return found


class Inline:
    """Runs ops where it stands: for tools and tests that have no event loop to protect."""

    async def run(self, op: Op[T, R], items: Sequence[T]) -> list[R]:
        """See Runner."""
        return list(op.run(items)) if items else []
