"""Self-attention over texts that lie one behind the other as rows of one matrix: three ways for the same numbers.

Each function makes, for texts of ``lengths`` (longest first, each at least 1) and a number of heads, a function from
queries, keys and values side by side [tokens, 3 * hidden] to what was heard [tokens, hidden]. It holds for every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from torch.nn import functional

Attend = Callable[[torch.Tensor], torch.Tensor]
_LEAST_FULL = 0.5
_ROUND = 8
"""Lengths are rounded up to it where there is padding: fused kernels want rows of a mask to be aligned."""


def by_equal_length(lengths: Sequence[int], heads: int, device: torch.device) -> Attend:
    """Texts of equal length share a call. Nothing is padded; best where a call costs little, on a CPU."""
    del device
    groups = [(length, len(list(same))) for length, same in groupby(lengths)]

    def attend(qkv: torch.Tensor) -> torch.Tensor:
        heard = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
        start = 0
        for length, count in groups:
            end = start + length * count
            heard[start:end] = _attend(qkv[start:end], length, heads)
            start = end
        return heard

    return attend


def by_similar_length(lengths: Sequence[int], heads: int, device: torch.device) -> Attend:
    """Texts of similar length share a padded call, for attention alone: few calls and little padding, on any device."""
    places: list[np.ndarray] = []
    back: list[np.ndarray] = []
    calls: list[tuple[int, int, int, torch.Tensor | None]] = []
    starts = np.cumsum([0, *lengths])
    slot = 0
    for first, last in similar(lengths):
        own = np.asarray(lengths[first:last])
        longest = int(own[0]) if own[0] == own[-1] else -(-int(own[0]) // _ROUND) * _ROUND
        within = np.arange(longest)
        real = within < own[:, None]
        places.append(np.where(real, starts[first:last, None] + within, 0).ravel())
        back.append(slot + np.flatnonzero(real))
        mask = None if real.all() else torch.from_numpy(real[:, None, None, :]).to(device)
        calls.append((slot, slot + real.size, longest, mask))
        slot += real.size
    spread = torch.from_numpy(np.concatenate(places)).to(device)
    gather = torch.from_numpy(np.concatenate(back)).to(device)

    def attend(qkv: torch.Tensor) -> torch.Tensor:
        padded = qkv[spread]
        heard = qkv.new_empty(slot, qkv.shape[1] // 3)
        for start, end, longest, mask in calls:
            heard[start:end] = _attend(padded[start:end], longest, heads, mask)
        return heard[gather]

    return attend


def by_offsets(lengths: Sequence[int], heads: int, device: torch.device) -> Attend:
    """One call that is told where each text ends. CUDA alone: it is the kernel under torch's nested tensors."""
    offsets = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32).to(device)
    longest = max(lengths)

    def attend(qkv: torch.Tensor) -> torch.Tensor:
        tokens, width = qkv.shape[0], qkv.shape[1] // 3
        q, k, v = qkv.view(1, tokens, 3, heads, width // heads).unbind(2)
        found = torch.ops.aten._efficient_attention_forward(
            q, k, v, None, offsets, offsets, longest, longest, 0.0, 0
        )
        return found[0].reshape(tokens, width)

    return attend


def similar(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges (first, one past the last) of ``lengths`` (longest first) in which the last is at least half the first."""
    found: list[tuple[int, int]] = []
    first = 0
    for at, length in enumerate(lengths):
        if length < _LEAST_FULL * lengths[first]:
            found.append((first, at))
            first = at
    found.append((first, len(lengths)))
    return found


def _attend(qkv: torch.Tensor, length: int, heads: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """For texts of one length, or padded to it: [tokens, 3 * hidden] to [tokens, hidden]."""
    width = qkv.shape[1] // 3
    q, k, v = (
        part.reshape(-1, length, heads, width // heads).transpose(1, 2) for part in qkv.split(width, 1)
    )
    found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return found.transpose(1, 2).reshape(-1, width)
