"""Attention on a GPU: one call for all sequences of a batch, variable-length where the kernels allow it.

These run on any device (the tests run the padded form on the CPU); `CpuAttention` and its like are faster there.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from services.reward.engine.decoder import KeyValue, Shape
from services.reward.engine.plan import Chunk
from services.reward.engine.put import put


class Layout:
    """Which rows of the queries and of the keys each sequence of a batch attends with.

    `queries` and `keys` are arrays of row numbers, one a sequence; a causal sequence's queries are its last
    positions. Padded index tensors and cumulative lengths are made once and serve every layer.
    """

    def __init__(self, queries: list[np.ndarray], keys: list[np.ndarray], device: torch.device) -> None:
        self.n = len(queries)
        self.most_queries = max(map(len, queries), default=0)
        self.most_keys = max(map(len, keys), default=0)
        self.query_rows = _rows(queries, device)
        self.key_rows = _rows(keys, device)
        self.query_counts = [len(q) for q in queries]
        self.key_counts = [len(k) for k in keys]
        self.device = device

    @functools.cached_property
    def ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cumulative lengths `[n+1]` int32 of queries and keys."""
        queries, keys = (np.cumsum([0, *c]) for c in (self.query_counts, self.key_counts))
        return put(queries, self.device, np.int32), put(keys, self.device, np.int32)

    @functools.cached_property
    def slots(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each query and each key goes in `[n * longest]` padded rows."""
        return (
            put(_slots(self.query_counts, self.most_queries), self.device),
            put(_slots(self.key_counts, self.most_keys), self.device),
        )

    def bias(self, dtype: torch.dtype, *, causal: bool) -> torch.Tensor:
        """`[n, 1, queries, keys]`: 0 where attention is allowed, -inf elsewhere (never on a whole row)."""
        counts = put([self.query_counts, self.key_counts], self.device)
        keys = torch.arange(self.most_keys, device=self.device)
        last = counts[1] - 1
        if causal:
            past = (counts[1] - counts[0])[:, None] + torch.arange(self.most_queries, device=self.device)
            limit = torch.minimum(past, last[:, None])
        else:
            limit = last[:, None].expand(-1, self.most_queries)
        hidden = keys > limit[..., None]
        return torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, float("-inf"))[
            :, None
        ]

    def pad(self, x: torch.Tensor, *, keys: bool) -> torch.Tensor:
        """`[n, heads, longest, width]` of the rows of x `[rows, heads, width]`, zeros where there are none."""
        rows, longest = (self.key_rows, self.most_keys) if keys else (self.query_rows, self.most_queries)
        padded = x.new_zeros((self.n * longest, *x.shape[1:]))
        padded[self.slots[keys]] = taken(x, rows)
        return padded.unflatten(0, (self.n, longest)).transpose(1, 2)

    def unpad(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """`[rows, heads*width]` in the order of the queries, of x `[n, heads, longest, width]`."""
        return self.in_order(x.transpose(1, 2).flatten(0, 1)[self.slots[0]], like)

    def in_order(self, found: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """`[rows, heads*width]` in the order of the queries, of what was found for them sequence by sequence."""
        if self.query_rows is None:
            return found.flatten(1)
        out = torch.empty_like(like, memory_format=torch.contiguous_format)
        out[self.query_rows] = found
        return out.flatten(1)


def _rows(sequences: list[np.ndarray], device: torch.device) -> torch.Tensor | None:
    """The rows of all sequences, one after the other; None where that is every row in its order."""
    rows = np.concatenate(sequences) if sequences else np.zeros(0, np.int64)
    return None if np.array_equal(rows, np.arange(len(rows))) else put(rows, device)


def taken(x: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Those rows of x; None: all of them, without a copy."""
    return x if rows is None else x[rows]


def _slots(counts: list[int], longest: int) -> np.ndarray:
    return np.concatenate([np.arange(c) + i * longest for i, c in enumerate(counts)] or [np.zeros(0)])


@functools.cache
def varlen_works(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether torch has variable-length flash attention here, and it masks as this engine expects."""
    if device.type != "cuda" or dtype not in {torch.float16, torch.bfloat16}:
        return False
    try:
        q, k, v = (torch.randn(n, 2, width, device=device, dtype=dtype) for n in (7, 12, 12))
        layout = Layout([np.arange(2), np.arange(2, 7)], [np.arange(5), np.arange(5, 12)], device)
        found = _varlen(layout, q, k, v, 1.0, causal=True)
        wanted = _padded(layout, q, k, v, layout.bias(dtype, causal=True), 1.0)
        return bool(torch.allclose(found.float(), wanted.float(), atol=5e-2, rtol=5e-2))
    except (ImportError, AttributeError, TypeError, RuntimeError):
        return False


def _varlen(
    layout: Layout, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, *, causal: bool
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    found: Any = varlen_attn(
        taken(q, layout.query_rows),
        taken(k, layout.key_rows),
        taken(v, layout.key_rows),
        *layout.ends,
        layout.most_queries,
        layout.most_keys,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        **_grouped_queries(q, k),
    )
    return layout.in_order(found, q)


def _grouped_queries(q: torch.Tensor, k: torch.Tensor) -> dict[str, Any]:
    """What tells torch that several query heads share a key head; before 2.12 it did not ask to be told."""
    from torch.nn.attention.varlen import varlen_attn

    if q.shape[1] == k.shape[1] or "enable_gqa" not in inspect.signature(varlen_attn).parameters:
        return {}
    return {"enable_gqa": True}


def _padded(
    layout: Layout, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    found = functional.scaled_dot_product_attention(
        layout.pad(q, keys=False),
        layout.pad(k, keys=True),
        layout.pad(v, keys=True),
        attn_mask=bias,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return layout.unpad(found, q)


class GpuAttention:
    """Causal attention of packed chunks. The scale is in the queries already."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def begin(self, chunk: Chunk, carried: list[KeyValue] | None) -> None:
        """See `Attention`."""
        self.chunk = chunk
        self.carried = carried if chunk.branches[0].carried else None
        self.kept: list[KeyValue] = []
        self.layouts: dict[bool, Layout] = {}
        self.biases: dict[bool, torch.Tensor] = {}

    def end(self) -> list[KeyValue] | None:
        """See `Attention`."""
        return self.kept if self.chunk.keeps else None

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, read: bool
    ) -> torch.Tensor:
        """See `Attention`."""
        if self.carried is not None:
            k, v = torch.cat((self.carried[layer][0], k)), torch.cat((self.carried[layer][1], v))
        if read not in self.layouts:
            self.layouts[read] = self._layout(q.device, read=read)
        layout = self.layouts[read]
        if self.chunk.keeps:
            rows = self._prefix_rows(len(self.chunk.branches) - 1)
            self.kept.append((k[rows].clone(), v[rows].clone()))
        if varlen_works(q.device, q.dtype, self.shape.width):
            return _varlen(layout, q, k, v, 1.0, causal=True)
        if read not in self.biases:
            self.biases[read] = layout.bias(q.dtype, causal=True)
        return _padded(layout, q, k, v, self.biases[read], 1.0)

    def _prefix_rows(self, number: int) -> slice:
        """Of a branch's prefix among the keys: carried ones come before the chunk's own rows."""
        branch = self.chunk.branches[number]
        before = self.chunk.branches[0].prefix if self.carried is not None else 0
        shift = 0 if branch.carried else before
        return slice(branch.start + shift, branch.stop + shift)

    def _layout(self, device: torch.device, *, read: bool) -> Layout:
        before = self.chunk.branches[0].prefix if self.carried is not None else 0
        queries: list[np.ndarray] = []
        keys: list[np.ndarray] = []
        done = 0
        for number, branch in enumerate(self.chunk.branches):
            rows = self._prefix_rows(number)
            prefix = np.arange(rows.start, rows.stop)
            if branch.prefix and not branch.carried and not read:
                queries.append(np.arange(branch.start, branch.stop))
                keys.append(prefix)
            for segment in branch.segments:
                own = np.arange(segment.start, segment.stop)
                queries.append(np.arange(done, done + 1) if read else own)
                keys.append(np.concatenate((prefix, own + before)))
                done += 1
        return Layout(queries, keys, device)


def within_texts(ends: Sequence[int], device: torch.device, *, first: bool) -> Layout:
    """Every text attends within itself; `first`: its first row alone asks, and the queries are one row a text."""
    keys = [np.arange(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return Layout([np.arange(i, i + 1) for i in range(len(keys))] if first else keys, keys, device)


class GpuFullAttention:
    """Attention within each text of a packed batch. The scale is in the queries already."""

    def begin(self, ends: Sequence[int]) -> None:
        """See `FullAttention`."""
        self.ends = ends
        self.layouts: dict[bool, tuple[Layout, torch.Tensor | None]] = {}

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, first: bool
    ) -> torch.Tensor:
        """See `FullAttention`."""
        fast = varlen_works(q.device, q.dtype, q.shape[-1])
        if first not in self.layouts:
            layout = within_texts(self.ends, q.device, first=first)
            self.layouts[first] = layout, None if fast else layout.bias(q.dtype, causal=False)
        layout, bias = self.layouts[first]
        if bias is None:
            return _varlen(layout, q, k, v, 1.0, causal=False)
        return _padded(layout, q, k, v, bias, 1.0)
