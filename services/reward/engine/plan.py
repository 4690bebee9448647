"""What is to be scored, and how it is cut into calls of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """One prompt and its completions. A text to score is `prompt + completion`, joined and cleaned already."""

    prompt: str
    completions: tuple[str, ...]


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix of all the sequences; 0 if there are none."""
    if not sequences:
        return 0
    # The smallest and the largest in dictionary order differ first where any two differ.
    low, high = min(sequences), max(sequences)
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return i
    return min(len(low), len(high))


def batches_by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each at most `tokens` when padded (or one alone)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for i in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
