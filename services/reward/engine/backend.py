"""What runs a model: token sequences in, one row of numbers for each out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from services.reward.engine.bert import PackedBert
from services.reward.engine.budget import TokenBudget
from services.reward.engine.decoder import KeyValue, PackedDecoder
from services.reward.engine.plan import Ids, chunks
from services.reward.engine.turns import paced

AHEAD = 8
"""Calls that may wait in a GPU's queue."""
WAVE = 8
"""So many calls' texts are sorted by length at once on a GPU, which begins when it has the first of them."""


class Backend(Protocol):
    """Scores groups of token sequences; those of one group are likely to start alike."""

    def rows(self, groups: Iterable[Sequence[Ids]], budget: TokenBudget) -> np.ndarray:
        """`[n, width]` float32, one row a sequence, in the order of the groups and within them.

        Groups may come late: what is computed on another device is begun before the last one is there.
        """
        ...


class Distinct:
    """The distinct sequences among many, so that each is computed once. They are taken as they are asked for."""

    def __init__(self, groups: Iterable[Iterable[Ids]]) -> None:
        self.sequences: list[tuple[int, ...]] = []
        self._source = iter(groups)
        self._groups: list[list[int]] = []
        self._index: list[int] = []
        self._known: dict[tuple[int, ...], int] = {}

    def groups(self) -> Iterator[list[int]]:
        """The numbers of each group's sequences that stood in none before it, from the first group on."""
        at = 0
        while True:
            if at == len(self._groups):
                group = next(self._source, None)
                if group is None:
                    return
                self._groups.append(self._add(group))
            yield self._groups[at]
            at += 1

    def _add(self, group: Iterable[Ids]) -> list[int]:
        fresh: list[int] = []
        for ids in group:
            key = tuple(ids)
            number = self._known.get(key)
            if number is None:
                number = self._known[key] = len(self.sequences)
                self.sequences.append(key)
                fresh.append(number)
            self._index.append(number)
        return fresh

    def spread(self, found: dict[int, np.ndarray]) -> np.ndarray:
        """The rows of all sequences, in their original order."""
        return np.stack([found[number] for number in self._index])


class Queue:
    """Rows that a device still computes, fetched late into ``found``: a copy from the device would wait for it."""

    def __init__(self, device: torch.device, tokens: int, found: dict[int, np.ndarray]) -> None:
        self._ahead = AHEAD if device.type != "cpu" else 0
        self._tokens = tokens
        self._found = found
        self._waiting: list[tuple[list[int], torch.Tensor]] = []

    def most(self) -> int:
        """Tokens that the next call may have. With somebody about, what the device has still to do is what they would
        wait for, so it is fetched first."""
        allowed = paced(self._tokens)
        if len(self._waiting) > (self._ahead if allowed == self._tokens else 0):
            self.collect()
        return allowed

    def put(self, which: list[int], rows: torch.Tensor) -> None:
        """``rows`` [n, width], one for each of ``which``."""
        self._waiting.append((which, rows))

    def collect(self) -> None:
        """Fetch all that waits."""
        for which, rows in self._waiting:
            for i, row in zip(which, rows.float().cpu().numpy(), strict=True):
                self._found[i] = row
        self._waiting.clear()


class DecoderBackend:
    """A packed decoder. `read_at` says where in a sequence its score is read; what follows is not computed."""

    def __init__(self, model: PackedDecoder, read_at: Callable[[Ids], int]) -> None:
        self.model = model
        self.read_at = read_at

    def rows(self, groups: Iterable[Sequence[Ids]], budget: TokenBudget) -> np.ndarray:
        """See `Backend`."""
        distinct = Distinct([ids[: self.read_at(ids) + 1] for ids in group] for group in groups)
        device = self.model.decoder.embedding.device
        found: dict[int, np.ndarray] = {}

        def work(tokens: int) -> None:
            left = ([(i, distinct.sequences[i]) for i in g if i not in found] for g in distinct.groups())
            carried: list[KeyValue] | None = None
            queue = Queue(device, tokens, found)
            for chunk in chunks((group for group in left if group), queue.most):
                scores, carried = self.model.forward(chunk, carried)
                queue.put(chunk.which, scores)
            queue.collect()

        budget.run(work)
        return distinct.spread(found)


class EncoderBackend:
    """A packed encoder; `read` turns hidden states and the texts' ends into one row a text."""

    def __init__(self, model: PackedBert, read: Callable[[torch.Tensor, list[int]], torch.Tensor]) -> None:
        self.model = model
        self.read = read

    def rows(self, groups: Iterable[Sequence[Ids]], budget: TokenBudget) -> np.ndarray:
        """See `Backend`."""
        distinct = Distinct(groups)
        found: dict[int, np.ndarray] = {}
        device = self.model.bert.words.device

        def work(tokens: int) -> None:
            queue = Queue(device, tokens, found)
            for left in _waves(distinct, found, None if device.type == "cpu" else WAVE * tokens):
                left.sort(key=lambda i: -len(distinct.sequences[i]))
                for batch in _packed(left, distinct.sequences, queue.most):
                    queue.put(batch, self._run([distinct.sequences[i] for i in batch]))
            queue.collect()

        budget.run(work)
        return distinct.spread(found)

    @torch.inference_mode()
    def _run(self, texts: list[tuple[int, ...]]) -> torch.Tensor:
        return self.read(self.model.forward(texts), np.cumsum([len(t) for t in texts]).tolist())


def _waves(distinct: Distinct, found: dict[int, np.ndarray], tokens: int | None) -> Iterator[list[int]]:
    """What is to be computed, in lists of about so many tokens; all in one without a number."""
    wave: list[int] = []
    size = 0
    for group in distinct.groups():
        fresh = [i for i in group if i not in found]
        wave += fresh
        size += sum(len(distinct.sequences[i]) for i in fresh)
        if tokens is not None and size >= tokens:
            yield wave
            wave, size = [], 0
    yield wave


def _packed(left: list[int], sequences: Sequence[Ids], most: Callable[[], int]) -> Iterator[list[int]]:
    batch: list[int] = []
    size, tokens = 0, most()
    for i in left:
        if batch and size + len(sequences[i]) > tokens:
            yield batch
            batch, size, tokens = [], 0, most()
        batch.append(i)
        size += len(sequences[i])
    if batch:
        yield batch


def last_real(pad: int | None) -> Callable[[Ids], int]:
    """Where transformers' sequence classifiers read: the last token that is not padding, wherever it came from."""

    def at(ids: Ids) -> int:
        for i in range(len(ids) - 1, -1, -1):
            if ids[i] != pad:
                return i
        return 0

    return at if pad is not None else lambda ids: len(ids) - 1


def before_first(eos: int | None) -> Callable[[Ids], int]:
    """Where the original read its value: the token before the first end-of-text, else the last."""

    def at(ids: Ids) -> int:
        return max(0, ids.index(eos) - 1) if eos is not None and eos in ids else len(ids) - 1

    return at
