"""The packed forward of DeBERTa-v2/v3, with its disentangled attention made cheap.

Transformers projects all relative positions anew in every layer of every call and then gathers one number for
each pair of tokens. Here the projections are made once, at loading; for a batch they are laid out by distance,
so that "the score of query i for the distance to key j" is a diagonal view of one product and nothing is gathered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from services.reward.engine.attention_cpu import head_major, heads_product
from services.reward.engine.bert import Bert, layer_norm, pack_layers
from services.reward.engine.families import Unsupported, activation_of
from services.reward.engine.linear import Linear, onednn_works, product


class RelativePositions:
    """What each layer adds to the scores for the distance between two tokens.

    `keys[layer]` and `queries[layer]` are `[heads, 2*span, width]` (None where the model has no such term);
    the scale of the attention is in `queries` here and in the query projection for `keys`.
    """

    def __init__(self, span: int, buckets: int, furthest: int) -> None:
        self.span, self.buckets, self.furthest = span, buckets, furthest
        self.keys: list[torch.Tensor | None] = []
        self.queries: list[torch.Tensor | None] = []

    def rows(self, length: int) -> torch.Tensor:
        """`[2*length-1]`: the row of the tables for query minus key = length-1, …, 0, …, 1-length."""
        distance = torch.arange(length - 1, -length, -1)
        return (self.bucket(distance) + self.span).clamp(0, 2 * self.span - 1)

    def bucket(self, distance: torch.Tensor) -> torch.Tensor:
        """Distances as they are up to half the buckets, logarithmically beyond (DeBERTa-v2, fp32 arithmetic)."""
        if self.buckets <= 0 or self.furthest <= 0:
            return distance
        middle = self.buckets // 2
        size = distance.abs().clamp_min(middle - 1)
        steps = (
            torch.log(size / middle) / torch.log(torch.tensor((self.furthest - 1) / middle)) * (middle - 1)
        )
        far = torch.ceil(steps) + middle
        return torch.where(distance.abs() <= middle, distance.to(far.dtype), far * distance.sign()).long()


class CpuDisentangledAttention:
    """Text by text and head by head; the products with positions are made for all texts of the batch at once."""

    def __init__(self, relative: RelativePositions) -> None:
        self.relative = relative

    def begin(self, ends: Sequence[int]) -> None:
        """See `FullAttention`."""
        self.ends = ends
        self.longest = max(b - a for a, b in zip([0, *ends[:-1]], ends, strict=True))
        self.order = self.relative.rows(self.longest)

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, first: bool
    ) -> torch.Tensor:
        """See `FullAttention`."""
        out = q.new_empty(q.shape)
        by_query = self._products(q, self.relative.keys[layer], self.order)
        by_key = self._products(k, self.relative.queries[layer], self.order.flip(0))
        start = 0
        for number, stop in enumerate(self.ends):
            rows = slice(number, number + 1) if first else slice(start, stop)
            keys, values = head_major(k[start:stop]), head_major(v[start:stop])
            scores = heads_product(q[rows].transpose(0, 1), keys, transposed=True)
            for head, mine in enumerate(scores.unbind(0)):
                if by_query is not None:
                    mine.add_(self._diagonals(by_query[head], rows.start, mine.shape, transposed=False))
                if by_key is not None:
                    mine.add_(self._diagonals(by_key[head], start, mine.shape, transposed=True))
            out[rows].transpose(0, 1).copy_(
                heads_product(torch.softmax(scores, -1), values, transposed=False)
            )
            start = stop
        return out.flatten(1)

    def _products(
        self, x: torch.Tensor, table: torch.Tensor | None, order: torch.Tensor
    ) -> list[torch.Tensor] | None:
        """For each head `[rows, 2*longest-1]`: `x [rows, heads, width]` with every distance, in that order."""
        if table is None:
            return None
        table = table[:, order]
        if x.dtype != torch.float32 or not onednn_works():
            return list(torch.bmm(x.transpose(0, 1), table.transpose(1, 2)).unbind(0))
        return [product(x[:, head], table[head]) for head in range(len(table))]

    def _diagonals(self, x: torch.Tensor, row: int, shape: torch.Size, *, transposed: bool) -> torch.Tensor:
        """A view `[queries, keys]` of the products of rows `row…`, of queries or (transposed) of keys.

        Entry (i, j) is x[row+i, longest-1 + j-i] for queries and x[row+j, longest-1 + i-j] for keys: one
        number further for each step along the row, one number less than a row for each step down it.
        """
        wide = x.shape[1]
        offset = x.storage_offset() + row * wide + self.longest - 1
        return torch.as_strided(x, tuple(shape), (1, wide - 1) if transposed else (wide - 1, 1), offset)


def deberta_of(body: Any, *, first_only: bool) -> tuple[Bert, RelativePositions]:
    """The packed form of a DeBERTa-v2 body (an AutoModel); raises `Unsupported`."""
    config = body.config
    if config.model_type != "deberta-v2":
        raise Unsupported(f"{config.model_type} has no packed forward")
    if getattr(config, "conv_kernel_size", 0) > 0:
        raise Unsupported("it has a convolution beside its first layer")
    if not getattr(config, "relative_attention", False):
        raise Unsupported("it has no relative positions")
    attention = body.encoder.layer[0].attention.self
    kinds = attention.pos_att_type
    scale = 1 / math.sqrt(attention.attention_head_size * (1 + ("c2p" in kinds) + ("p2c" in kinds)))
    act = activation_of(config.hidden_act)
    names = ("query_proj", "key_proj", "value_proj")
    table = body.embeddings
    places = None
    if table.position_embeddings is not None:
        places = table.position_embeddings.weight.detach()
    if table.token_type_embeddings is not None:
        kind = table.token_type_embeddings.weight[0].detach()
        places = kind.expand(config.max_position_embeddings, -1) if places is None else places + kind
    bert = Bert(
        words=table.word_embeddings.weight.detach(),
        places=places,
        project=None if table.embed_proj is None else Linear(table.embed_proj.weight),
        norm=layer_norm(table.LayerNorm),
        layers=pack_layers(body.encoder.layer, names, scale, act, first_only=first_only),
        heads=config.num_attention_heads,
        width=attention.attention_head_size,
        positions=lambda ids: np.arange(len(ids)),
        kinds=None if table.token_type_embeddings is None else table.token_type_embeddings.weight.detach(),
    )
    return bert, _relative(body, scale)


@torch.inference_mode()
def _relative(body: Any, scale: float) -> RelativePositions:
    first = body.encoder.layer[0].attention.self
    found = RelativePositions(first.pos_ebd_size, first.position_buckets, first.max_relative_positions)
    embedded = body.encoder.get_rel_embedding()[: 2 * found.span]
    for layer in body.encoder.layer:
        attention = layer.attention.self
        shared, width = attention.share_att_key, attention.attention_head_size
        key = query = None
        if "c2p" in attention.pos_att_type:
            key = (attention.key_proj if shared else attention.pos_key_proj)(embedded)
        if "p2c" in attention.pos_att_type:
            query = (attention.query_proj if shared else attention.pos_query_proj)(embedded) * scale
        found.keys.append(None if key is None else head_major(key.unflatten(1, (-1, width))))
        found.queries.append(None if query is None else head_major(query.unflatten(1, (-1, width))))
    return found
