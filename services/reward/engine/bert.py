"""The packed forward of BERT and its relatives: every token of every text in one row of a matrix."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from services.reward.engine import fused
from services.reward.engine.attention_cpu import head_major, heads_product
from services.reward.engine.families import Unsupported, activation_of
from services.reward.engine.linear import LayerNorm, Linear
from services.reward.engine.put import put
from services.reward.engine.segments import second
from services.reward.engine.steps import add_norm
from services.reward.engine.turns import give_way


@dataclass(frozen=True)
class Layer:
    """One layer, normalised after its residuals. The attention's scale is in the query weights."""

    qkv: Linear | None  # where every row is read
    q: Linear | None  # where only the first row of each text is
    kv: Linear | None
    out: Linear
    after_attention: LayerNorm
    up: Linear
    down: Linear
    after_mlp: LayerNorm
    activation: str


@dataclass(frozen=True)
class Bert:
    """The weights. `places` `[positions, hidden]`: position and type embeddings, added up; None without."""

    words: torch.Tensor
    places: torch.Tensor | None
    project: Linear | None  # from the embedding's width to the model's, where they differ
    norm: LayerNorm
    layers: Sequence[Layer]
    heads: int
    width: int
    positions: Callable[[np.ndarray], np.ndarray]
    kinds: torch.Tensor | None = None  # `[types, hidden]`; the first is in `places` already


class FullAttention(Protocol):
    """Attention within each text of a packed batch."""

    def begin(self, ends: Sequence[int]) -> None:
        """Prepare for a batch whose texts end before these rows."""
        ...

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, first: bool
    ) -> torch.Tensor:
        """`[queries, heads*width]` for `[queries | rows, heads, width]`; `first`: one query a text, its first."""
        ...


class CpuFullAttention:
    """Plain products, text by text."""

    def begin(self, ends: Sequence[int]) -> None:
        """See `FullAttention`."""
        self.ends = ends

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, first: bool
    ) -> torch.Tensor:
        """See `FullAttention`."""
        out = q.new_empty(q.shape)
        start = 0
        for number, stop in enumerate(self.ends):
            rows = slice(number, number + 1) if first else slice(start, stop)
            keys, values = head_major(k[start:stop]), head_major(v[start:stop])
            weights = torch.softmax(heads_product(q[rows].transpose(0, 1), keys, transposed=True), -1)
            out[rows].transpose(0, 1).copy_(heads_product(weights, values, transposed=False))
            start = stop
        return out.flatten(1)


def full_attention_of(bert: Bert) -> FullAttention:
    """What an encoder attends with on the CPU."""
    if bert.width % 16 or fused.kernel("attention", bert.words) is None:
        return CpuFullAttention()
    # Another use of the kernel that was tried; where it is, this is.
    from services.reward.engine.vectors import VectorFullAttention

    return VectorFullAttention(bert.width)


class PackedBert:
    """Runs packed texts through a BERT. With `first_only` the last layer computes only each text's first row.

    With `separator`, what stands behind a text's first token of that id is of the second type.
    """

    def __init__(
        self, bert: Bert, attention: FullAttention, *, first_only: bool, separator: int | None = None
    ) -> None:
        self.bert = bert
        self.separator = separator
        self.attention = attention
        self.first_only = first_only

    @torch.inference_mode()
    def forward(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Hidden states: `[texts, hidden]` of the first tokens if `first_only`, else `[all tokens, hidden]`."""
        bert = self.bert
        device = bert.words.device
        ends = np.cumsum([len(t) for t in texts]).tolist()
        places = np.concatenate([bert.positions(np.asarray(t)) for t in texts])
        x = functional.embedding(put([i for text in texts for i in text], device), bert.words)
        if bert.places is not None:
            x = x + functional.embedding(put(places, device), bert.places)
        if self.separator is not None and bert.kinds is not None:
            behind = np.concatenate([second(np.asarray(t), self.separator) for t in texts])
            # By row numbers: a mask on a device is read back before it is used.
            x[put(np.flatnonzero(behind), device)] += bert.kinds[1] - bert.kinds[0]
        if bert.project is not None:
            x = bert.project(x)
        x = bert.norm(x)
        # What attention remembers is this call's own: others may run between its layers.
        attention = copy.copy(self.attention)
        attention.begin(ends)
        for number, layer in enumerate(bert.layers):
            give_way()
            x = self._layer(number, layer, x, ends, attention)
        return x

    def _layer(
        self, number: int, layer: Layer, x: torch.Tensor, ends: list[int], attention: FullAttention
    ) -> torch.Tensor:
        heads, width = self.bert.heads, self.bert.width
        if layer.qkv is not None:
            q, k, v = layer.qkv(x).view(len(x), 3, heads, width).unbind(1)
        else:
            assert layer.q is not None
            assert layer.kv is not None
            k, v = layer.kv(x).view(len(x), 2, heads, width).unbind(1)
            x = x[put([0, *ends[:-1]], x.device)]
            q = layer.q(x).view(len(x), heads, width)
        attended = attention(number, q, k, v, first=layer.qkv is None)
        x = add_norm(layer.out(attended), x, layer.after_attention)
        return add_norm(layer.down(layer.up(x, layer.activation)), x, layer.after_mlp)


def pack_layers(
    layers: Any, names: tuple[str, str, str], scale: float, act: str, *, first_only: bool
) -> list[Layer]:
    """The layers of a transformers BERT-like encoder; `names` of its query, key and value projections."""
    packed = []
    for number, layer in enumerate(layers):
        q, k, v = (getattr(layer.attention.self, name) for name in names)
        trimmed = first_only and number == len(layers) - 1
        weights = [q.weight * scale, k.weight, v.weight]
        biases = [q.bias * scale, k.bias, v.bias]
        packed.append(
            Layer(
                qkv=None if trimmed else Linear(torch.cat(weights), torch.cat(biases)),
                q=Linear(weights[0], biases[0]) if trimmed else None,
                kv=Linear(torch.cat(weights[1:]), torch.cat(biases[1:])) if trimmed else None,
                out=Linear(layer.attention.output.dense.weight, layer.attention.output.dense.bias),
                after_attention=layer_norm(layer.attention.output.LayerNorm),
                up=Linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias),
                down=Linear(layer.output.dense.weight, layer.output.dense.bias),
                after_mlp=layer_norm(layer.output.LayerNorm),
                activation=act,
            )
        )
    return packed


def layer_norm(module: Any) -> LayerNorm:
    """The engine's form of a torch LayerNorm."""
    return LayerNorm(module.weight, module.bias, module.eps)


def bert_of(body: Any, *, first_only: bool) -> Bert:
    """The packed form of a BERT or RoBERTa body (an AutoModel); raises `Unsupported`."""
    config = body.config
    if config.model_type not in {"bert", "roberta", "xlm-roberta", "camembert"}:
        raise Unsupported(f"{config.model_type} has no packed forward")
    if getattr(config, "is_decoder", False):
        raise Unsupported("it is a decoder")
    table = body.embeddings
    width = config.hidden_size // config.num_attention_heads
    act = activation_of(config.hidden_act)
    names = ("query", "key", "value")
    pad = None if config.model_type == "bert" else table.padding_idx
    return Bert(
        words=table.word_embeddings.weight.detach(),
        places=(table.position_embeddings.weight + table.token_type_embeddings.weight[0]).detach(),
        project=None,
        norm=layer_norm(table.LayerNorm),
        layers=pack_layers(body.encoder.layer, names, width**-0.5, act, first_only=first_only),
        heads=config.num_attention_heads,
        width=width,
        positions=lambda ids: positions(ids, pad),
        kinds=table.token_type_embeddings.weight.detach(),
    )


def positions(ids: np.ndarray, padding: int | None) -> np.ndarray:
    """0, 1, 2 …; RoBERTa counts from `padding` + 1 and gives padding tokens within a text `padding` itself."""
    if padding is None:
        return np.arange(len(ids))
    real = ids != padding
    return np.cumsum(real) * real + padding
