"""How many tokens go through a model at once, and what happens when that was too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from services.reward.engine.errors import ModelError
from services.reward.engine.memory import give_back

T = TypeVar("T")

SMALLEST = 16
# A CPU core is saturated by a few hundred tokens a call; more than this only leave its caches.
MOST_ON_CPU = 2048

_CPU_TEXTS = ("can't allocate memory", "could not create a primitive", "could not execute a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch raises when a device (or the machine) has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator and oneDNN have no exception types of their own, only these texts.
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_TEXTS)


class TokenBudget:
    """The token budget of one model: `tokens` a call (at most 2,048 on the CPU), halved whenever memory runs out.

    `oom_halvings` counts the halvings. A budget that would fall below 16 tokens is a `ModelError`: the
    model itself does not fit.
    """

    def __init__(self, tokens: int, device: str = "") -> None:
        if tokens < SMALLEST:
            raise ValueError(f"a token budget is at least {SMALLEST}, not {tokens}")
        self.tokens = min(tokens, MOST_ON_CPU) if device == "cpu" else tokens
        self.oom_halvings = 0

    def run(self, work: Callable[[int], T]) -> T:
        """`work(tokens)`, again with half the tokens each time it runs out of memory."""
        while True:
            try:
                return work(self.tokens)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.tokens // 2 < SMALLEST:
                    raise ModelError(
                        "out_of_memory",
                        f"The model ran out of memory on {self.tokens} tokens.",
                        "Use a smaller model, a lower max_tokens, or a device with more memory.",
                    ) from error
                self.tokens //= 2
                self.oom_halvings += 1
            # Outside the except block: the traceback holds the tensors that filled the memory.
            give_back()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
