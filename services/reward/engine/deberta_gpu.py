"""DeBERTa's attention on a GPU: packed texts through one kernel where it has that, else padded ones.

The padded form runs on any device (the tests run it on the CPU); `CpuDisentangledAttention` is faster there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from services.reward.engine import fused
from services.reward.engine.attention_gpu import Layout, within_texts
from services.reward.engine.deberta import RelativePositions
from services.reward.engine.put import put

QUERIES = 64
"""Positions of a text that one program of the kernel takes."""
ALIGNED = 8
"""Rows of products start at multiples of so many numbers: without it tensor cores are left out."""


class GpuDisentangledAttention:
    """Attention within each text of a packed batch; its position terms are added to the scores by distance."""

    def __init__(self, relative: RelativePositions) -> None:
        self.relative = relative

    def begin(self, ends: Sequence[int]) -> None:
        """See `FullAttention`."""
        self.ends = ends
        self.longest = max(b - a for a, b in zip([0, *ends[:-1]], ends, strict=True))
        self.layouts: dict[bool, tuple[Layout, torch.Tensor]] = {}
        self.blocks: torch.Tensor | None = None
        self.order: torch.Tensor | None = None

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, first: bool
    ) -> torch.Tensor:
        """See `FullAttention`."""
        kernel = None if first else fused.kernel("disentangled", q)
        return (
            self.padded(layer, q, k, v, first=first)
            if kernel is None
            else self.packed(kernel, layer, q, k, v)
        )

    def packed(
        self, kernel: fused.Kernel, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """`[rows, heads*width]`: every query of every text, nothing padded but the distances."""
        if self.blocks is None or self.order is None:
            self.blocks = put(blocks(self.ends), q.device, np.int32)
            self.order = self._order(q.device)
        by_query = _by_distance(q, self.relative.keys[layer], self.order)
        by_key = _by_distance(k, self.relative.queries[layer], self.order.flip(0))
        middle = len(self.order) // 2
        # Flipped, the filler comes first.
        return kernel(q, k, v, by_query, by_key, self.blocks, QUERIES, middle - 1, middle).flatten(1)

    def _order(self, device: torch.device) -> torch.Tensor:
        """Rows of the tables by distance, as many as are aligned: those of the longest text, and filler behind."""
        half = -(-self.longest // (ALIGNED // 2)) * (ALIGNED // 2)
        rows = self.relative.rows(half)
        return put(np.append(rows.numpy(), rows[-1].item()), device)

    def padded(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, first: bool
    ) -> torch.Tensor:
        """The same over padded texts, of similar length if this is to be fast; `first`: one query a text."""
        if first not in self.layouts:
            layout = within_texts(self.ends, q.device, first=first)
            self.layouts[first] = layout, layout.bias(q.dtype, causal=False)
        layout, bias = self.layouts[first]
        queries, keys = layout.pad(q, keys=False), layout.pad(k, keys=True)
        order = put(self.relative.rows(layout.most_keys), q.device)
        by_query = _padded_by_distance(queries, self.relative.keys[layer], order)
        if by_query is not None:
            bias = bias + diagonals(by_query, (layout.most_queries, layout.most_keys), transposed=False)
        by_key = _padded_by_distance(keys, self.relative.queries[layer], order.flip(0))
        if by_key is not None:
            bias = bias + diagonals(by_key, (layout.most_queries, layout.most_keys), transposed=True)
        found = functional.scaled_dot_product_attention(
            queries, keys, layout.pad(v, keys=True), attn_mask=bias, scale=1.0
        )
        return layout.unpad(found, q)


def blocks(ends: Sequence[int]) -> np.ndarray:
    """`[n, 3]`: for every `QUERIES` positions of every text its first row, its length, and the first of them."""
    stops = np.asarray(ends)
    starts = np.concatenate(([0], stops[:-1]))
    lengths = stops - starts
    counts = -(-lengths // QUERIES)
    texts = np.repeat(np.arange(len(stops)), counts)
    firsts = np.arange(len(texts)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack((starts[texts], lengths[texts], firsts * QUERIES), 1)


def _by_distance(x: torch.Tensor, table: torch.Tensor | None, order: torch.Tensor) -> torch.Tensor | None:
    """`[heads, rows, distances]` of x `[rows, heads, width]`."""
    return None if table is None else torch.bmm(x.transpose(0, 1), table[:, order].transpose(1, 2))


def _padded_by_distance(
    x: torch.Tensor, table: torch.Tensor | None, order: torch.Tensor
) -> torch.Tensor | None:
    return None if table is None else torch.matmul(x, table[:, order].transpose(1, 2))


def diagonals(x: torch.Tensor, shape: tuple[int, int], *, transposed: bool) -> torch.Tensor:
    """A view `[n, heads, queries, keys]` of products with distances `[n, heads, rows, 2*keys-1]`.

    Entry (i, j) is x[…, i, keys-1 + j-i], or, `transposed`, x[…, j, keys-1 + i-j].
    """
    wide = x.shape[-1]
    strides = (*x.stride()[:2], *((1, wide - 1) if transposed else (wide - 1, 1)))
    return torch.as_strided(x, (*x.shape[:2], *shape), strides, x.storage_offset() + shape[1] - 1)


@fused.trial("disentangled")
def _try_disentangled(device: torch.device, dtype: torch.dtype) -> fused.Step:
    heads, width, span = 16, 64, 256
    relative = RelativePositions(span, span, 512)
    tables = torch.randn(2, heads, 2 * span, width, device=device, dtype=dtype) * 0.1
    relative.keys.append(tables[0])
    relative.queries.append(tables[1])
    lengths = np.random.default_rng(0).integers(150, 250, 20)
    ends = np.cumsum(lengths).tolist()
    qkv = torch.randn(ends[-1], 3, heads, width, device=device, dtype=dtype)
    q, k, v = (qkv * torch.tensor([0.1, 1.0, 1.0], device=device, dtype=dtype)[:, None, None]).unbind(1)

    def step(kernel: fused.Kernel | None) -> torch.Tensor:
        attention = GpuDisentangledAttention(relative)
        attention.begin(ends)
        if kernel is None:
            return attention.padded(0, q, k, v, first=False)
        return attention.packed(kernel, 0, q, k, v)

    return step
