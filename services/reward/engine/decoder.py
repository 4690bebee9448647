"""The packed forward of decoders: what a family's blocks compute, written once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from services.reward.engine.linear import Linear, Norm, RMSNorm
from services.reward.engine.plan import Chunk
from services.reward.engine.put import put
from services.reward.engine.steps import norm_rotate
from services.reward.engine.turns import give_way

KeyValue = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """Of the attention: query heads, key/value heads, their width, and how much of it is rotated."""

    heads: int
    kv_heads: int
    width: int
    rotary: int

    @property
    def q(self) -> int:
        """Columns of the queries."""
        return self.heads * self.width

    @property
    def kv(self) -> int:
        """Columns of the keys, and of the values."""
        return self.kv_heads * self.width


@dataclass(frozen=True)
class Block:
    """One layer. Rotated dimensions are interleaved pairs; `scale` of the attention is in the query weights,
    or in `qk_norm` (`[heads + kv_heads, width]`) where there is one."""

    before_attention: Norm
    before_mlp: Norm | None  # None: the MLP reads what the attention reads (GPT-J)
    qkv: Linear | None  # all but the last layer
    q: Linear | None  # the last layer: queries only where they are read
    kv: Linear | None
    qk_norm: RMSNorm | None  # all but the last layer: of queries and keys together
    q_norm: RMSNorm | None  # the last layer
    k_norm: RMSNorm | None
    out: Linear
    gate: Linear | None  # with `up`: a gated MLP
    up: Linear
    down: Linear
    activation: str
    parallel: bool  # attention and MLP side by side (GPT-NeoX, GPT-J)


@dataclass(frozen=True)
class Decoder:
    """The weights of a decoder and its head. `rotation` is `[positions, rotary/2]` complex64."""

    embedding: torch.Tensor
    blocks: Sequence[Block]
    final: Norm
    head: torch.nn.Module
    shape: Shape
    rotation: torch.Tensor


class Attention(Protocol):
    """Attention of one chunk, over its own keys and those of a prefix kept from an earlier chunk."""

    def begin(self, chunk: Chunk, carried: list[KeyValue] | None) -> None:
        """Prepare for the layers of `chunk`; `carried` holds the open prefix's keys and values by layer."""
        ...

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, read: bool
    ) -> torch.Tensor:
        """`[queries, heads*width]` for q `[queries, heads, width]`; `read`: one query a sequence, its last."""
        ...

    def end(self) -> list[KeyValue] | None:
        """The keys and values by layer of the prefix that the next chunk goes on with, if any."""
        ...


class PackedDecoder:
    """Runs chunks through a decoder: no padding, prompts once, the last layer only where it is read."""

    def __init__(self, decoder: Decoder, attention: Attention) -> None:
        self.decoder = decoder
        self.attention = attention

    @torch.inference_mode()
    def forward(
        self, chunk: Chunk, carried: list[KeyValue] | None, rows: list[int] | None = None
    ) -> tuple[torch.Tensor, list[KeyValue] | None]:
        """The head's output `[sequences, labels]` of a chunk, and what its open prefix leaves for the next.

        With `rows`, the final states `[rows, hidden]` there instead.
        """
        model = self.decoder
        device = model.embedding.device
        ids, positions = put(chunk.ids, device), put(chunk.positions, device)
        read = put(chunk.read if rows is None else rows, device)
        rotation = model.rotation[positions]
        x = functional.embedding(ids, model.embedding)
        # What attention remembers is this call's own: others may run between its layers.
        attention = copy.copy(self.attention)
        attention.begin(chunk, carried)
        for number, block in enumerate(model.blocks[:-1]):
            x = self._block(number, block, x, rotation, attention)
            give_way()
        x = self._last(model.blocks[-1], x, rotation, read, attention, alone=rows is None)
        kept = attention.end()
        if not len(read):
            return x.new_zeros((0, 1)), kept
        states = model.final(x)
        return model.head(states) if rows is None else states, kept

    def _block(
        self, number: int, block: Block, x: torch.Tensor, rotation: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        shape = self.decoder.shape
        assert block.qkv is not None
        # Side by side, attention and MLP read the same normed states.
        h = block.before_attention(x) if block.parallel else None
        qkv = block.qkv(x, norm=block.before_attention) if h is None else block.qkv(h)
        qk = qkv[:, : shape.q + shape.kv].view(len(x), shape.heads + shape.kv_heads, shape.width)
        v = qkv[:, shape.q + shape.kv :].view(len(x), shape.kv_heads, shape.width)
        qk = norm_rotate(qk, block.qk_norm, rotation, shape.rotary)
        q, k = qk[:, : shape.heads], qk[:, shape.heads :]
        return mix(block, x, h, attention(number, q, k, v, read=False))

    def _last(
        self,
        block: Block,
        x: torch.Tensor,
        rotation: torch.Tensor,
        read: torch.Tensor,
        attention: Attention,
        *,
        alone: bool,
    ) -> torch.Tensor:
        """`[read, hidden]`; `alone`: what is read is the last row of each sequence, and only it asks."""
        shape = self.decoder.shape
        assert block.q is not None
        assert block.kv is not None
        number = len(self.decoder.blocks) - 1
        norm = block.before_attention
        h = norm(x) if block.parallel else None
        kv = block.kv(x, norm=norm) if h is None else block.kv(h)
        k = kv[:, : shape.kv].view(len(x), shape.kv_heads, shape.width)
        v = kv[:, shape.kv :].view(len(x), shape.kv_heads, shape.width)
        asking = x if h is None else h
        asked = block.q(asking[read] if alone else asking, norm=norm if h is None else None)
        q = asked.view(len(asked), shape.heads, shape.width)
        q = norm_rotate(q, block.q_norm, rotation[read] if alone else rotation, shape.rotary)
        k = norm_rotate(k, block.k_norm, rotation, shape.rotary)
        attended = attention(number, q, k, v, read=alone)
        attended = attended if alone else attended[read]
        return mix(block, x[read], None if h is None else h[read], attended)


def mix(block: Block, x: torch.Tensor, h: torch.Tensor | None, attended: torch.Tensor) -> torch.Tensor:
    """What a layer does after attention: x `[n, hidden]`, attended `[n, heads*width]`.

    h is the normed x where attention and MLP stand side by side. x may be changed, and be what is returned.
    """
    if h is None:
        x = block.out.plus(attended, x)
        return mlp(block, x, x, block.before_mlp)
    if block.before_mlp is not None:
        h = block.before_mlp(x)
    return mlp(block, h, block.out.plus(attended, x), None)


def mlp(block: Block, h: torch.Tensor, x: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    """`x + MLP(norm(h))`; x may be changed, and be what is returned."""
    if block.gate is None:
        return block.down.plus(block.up(h, block.activation, norm), x)
    return block.down.plus(block.up.gated(h, block.gate, block.activation, norm), x)
