"""The least time that the shared-prefix plan can take: its arithmetic at the measured peak of matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from services.reward.engine import Classifier, Group, fused
from services.reward.engine.linear import Linear
from services.reward.engine.plan import Ids, families


def ideal_flops(model: Any, engine: Classifier, groups: list[Group]) -> float:
    """All multiply-adds (as two operations) that difference mode needs, each done once, and nothing else.

    Counted: the projections of every token that is not shared already, causal attention (no masked half), the
    last layer's queries, output and MLP only where a score is read. Not counted: embeddings, norms, rotations,
    softmax, tokenisation.
    """
    sides = [[g.prompt + c for c in g.completions] for g in groups] + [
        [c] for g in groups for c in g.completions
    ]
    numbered = [[(0, ids) for ids in engine.tokens.of(texts)] for texts in sides]
    return sum(flops(model.config, *family) for family in families(numbered))


def flops(config: Any, prefix: Ids, own: list[tuple[int, Ids]]) -> float:
    """Of one prefix and what goes on from it."""
    hidden, width, layers = config.hidden_size, config.head_dim, config.num_hidden_layers
    q, kv = config.num_attention_heads * width, config.num_key_value_heads * width
    rest = q * hidden + 3 * hidden * config.intermediate_size  # output projection and MLP
    tokens = len(prefix) + sum(len(ids) for _, ids in own)
    pairs = len(prefix) ** 2 / 2 + sum(len(ids) * (len(prefix) + len(ids) / 2) for _, ids in own)
    every = (layers - 1) * (2 * tokens * (hidden * (q + 2 * kv) + rest) + 4 * pairs * q)
    read = sum(4 * (len(prefix) + len(ids)) * q for _, ids in own) + 2 * len(own) * (hidden * q + rest)
    return every + 2 * tokens * hidden * 2 * kv + read


def peak(config: Any, tokens: int = 512) -> float:
    """Flop/s of the fastest matrix product among this model's shapes and a large square one, by MKL or oneDNN."""
    found = []
    for work, x, weight in _products(config, tokens):
        out = x.new_empty(len(x), len(weight))
        with fused.fixed({}):
            linear = Linear(weight)
        with torch.inference_mode():
            found.append(work / _fastest(lambda x=x, w=weight, out=out: torch.mm(x, w.t(), out=out)))
            found.append(work / _fastest(lambda x=x, linear=linear: linear(x)))
    return max(found)


def own_peak(config: Any, tokens: int = 512) -> float:
    """The same of the way that the engine takes here: its own kernel where that was found faster."""
    return max(work / _fastest(lambda x=x, y=Linear(w): y(x)) for work, x, w in _products(config, tokens))


def _products(config: Any, tokens: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    for rows, columns, depth in [(tokens, inner, hidden), (tokens, hidden, inner), (1024, 1024, 1024)]:
        yield 2 * rows * columns * depth, torch.randn(rows, depth), torch.randn(columns, depth)


def _fastest(call: Callable[[], Any]) -> float:
    """CPU-seconds of the median of 20 calls: a peak that lasts, not one lucky moment."""
    taken = []
    for _ in range(20):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return sorted(taken)[len(taken) // 2]
