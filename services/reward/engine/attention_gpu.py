"""Attention on a GPU: one call for all sequences of a batch, variable-length where the kernels allow it.

These run on any device (the tests run the padded form on the CPU); `CpuAttention` and its like are faster there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from services.reward.engine.deberta import RelativePositions
from services.reward.engine.decoder import KeyValue, Shape
from services.reward.engine.plan import Chunk


class Layout:
    """Which rows of the queries and of the keys each sequence of a batch attends with.

    `queries` and `keys` are arrays of row numbers, one a sequence; a causal sequence's queries are its last
    positions. Padded index tensors and cumulative lengths are made once and serve every layer.
    """

    def __init__(self, queries: list[np.ndarray], keys: list[np.ndarray], device: torch.device) -> None:
        self.n = len(queries)
        self.most_queries = max(map(len, queries), default=0)
        self.most_keys = max(map(len, keys), default=0)
        self.query_rows = _put(np.concatenate(queries) if queries else np.zeros(0), device)
        self.key_rows = _put(np.concatenate(keys) if keys else np.zeros(0), device)
        self.query_counts = [len(q) for q in queries]
        self.key_counts = [len(k) for k in keys]
        self.device = device

    @functools.cached_property
    def ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cumulative lengths `[n+1]` int32 of queries and keys."""
        both = [np.concatenate(([0], np.cumsum(c))) for c in (self.query_counts, self.key_counts)]
        return tuple(torch.from_numpy(e.astype(np.int32)).to(self.device) for e in both)  # type: ignore[return-value]

    @functools.cached_property
    def slots(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each query and each key goes in `[n * longest]` padded rows."""
        return (
            _put(_slots(self.query_counts, self.most_queries), self.device),
            _put(_slots(self.key_counts, self.most_keys), self.device),
        )

    def bias(self, dtype: torch.dtype, *, causal: bool) -> torch.Tensor:
        """`[n, 1, queries, keys]`: 0 where attention is allowed, -inf elsewhere (never on a whole row)."""
        counts = torch.tensor([self.query_counts, self.key_counts], device=self.device)
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
        padded[self.slots[keys]] = x[rows]
        return padded.unflatten(0, (self.n, longest)).transpose(1, 2)

    def unpad(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """`[rows, heads*width]` in the order of the queries, of x `[n, heads, longest, width]`."""
        out = torch.empty_like(like, memory_format=torch.contiguous_format)
        out[self.query_rows] = x.transpose(1, 2).flatten(0, 1)[self.slots[0]]
        return out.flatten(1)


def _put(rows: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(rows.astype(np.int64)).to(device, non_blocking=True)


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

    found = varlen_attn(
        q[layout.query_rows],
        k[layout.key_rows],
        v[layout.key_rows],
        *layout.ends,
        layout.most_queries,
        layout.most_keys,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    out[layout.query_rows] = found  # type: ignore[index]
    return out.flatten(1)


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


def _texts(ends: Sequence[int], device: torch.device, *, first: bool) -> Layout:
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
            layout = _texts(self.ends, q.device, first=first)
            self.layouts[first] = layout, None if fast else layout.bias(q.dtype, causal=False)
        layout, bias = self.layouts[first]
        if bias is None:
            return _varlen(layout, q, k, v, 1.0, causal=False)
        return _padded(layout, q, k, v, bias, 1.0)


class GpuDisentangledAttention:
    """DeBERTa's attention over padded texts of similar length; its position terms are the scores' bias."""

    def __init__(self, relative: RelativePositions) -> None:
        self.relative = relative

    def begin(self, ends: Sequence[int]) -> None:
        """See `FullAttention`."""
        self.ends = ends
        self.layouts: dict[bool, tuple[Layout, torch.Tensor]] = {}

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, first: bool
    ) -> torch.Tensor:
        """See `FullAttention`."""
        if first not in self.layouts:
            layout = _texts(self.ends, q.device, first=first)
            self.layouts[first] = layout, layout.bias(q.dtype, causal=False)
        layout, bias = self.layouts[first]
        queries, keys = layout.pad(q, keys=False), layout.pad(k, keys=True)
        order = self.relative.rows(layout.most_keys).to(q.device)
        by_query = _by_distance(queries, self.relative.keys[layer], order)
        if by_query is not None:
            bias = bias + diagonals(by_query, (layout.most_queries, layout.most_keys), transposed=False)
        by_key = _by_distance(keys, self.relative.queries[layer], order.flip(0))
        if by_key is not None:
            bias = bias + diagonals(by_key, (layout.most_queries, layout.most_keys), transposed=True)
        found = functional.scaled_dot_product_attention(
            queries, keys, layout.pad(v, keys=True), attn_mask=bias, scale=1.0
        )
        return layout.unpad(found, q)


def _by_distance(x: torch.Tensor, table: torch.Tensor | None, order: torch.Tensor) -> torch.Tensor | None:
    return None if table is None else torch.matmul(x, table[:, order].transpose(1, 2))


def diagonals(x: torch.Tensor, shape: tuple[int, int], *, transposed: bool) -> torch.Tensor:
    """A view `[n, heads, queries, keys]` of products with distances `[n, heads, rows, 2*keys-1]`.

    Entry (i, j) is x[…, i, keys-1 + j-i], or, `transposed`, x[…, j, keys-1 + i-j].
    """
    wide = x.shape[-1]
    strides = (*x.stride()[:2], *((1, wide - 1) if transposed else (wide - 1, 1)))
    return torch.as_strided(x, (*x.shape[:2], *shape), strides, x.storage_offset() + shape[1] - 1)
