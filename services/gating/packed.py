"""BERT and its relatives without padding: every token of every text is a row of one matrix.

Only attention has to know where a text ends. Texts of equal length lie side by side and share one call of it; on a CPU
that costs less than computing what padding would say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch.nn import functional

_FAMILIES = frozenset({"bert", "roberta", "xlm-roberta", "camembert"})


class PackedBody:
    """The forward of a transformers BERT-like body, which is used and not copied but for its attention's inputs."""

    def __init__(self, model: Any) -> None:
        """``model`` is one that ``can_pack``."""
        config = model.config
        self._embeddings = model.embeddings
        self._heads = int(config.num_attention_heads)
        self._padding = None if config.model_type == "bert" else int(model.embeddings.padding_idx)
        self._layers: list[tuple[torch.Tensor, torch.Tensor, Any]] = []
        for layer in model.encoder.layer:
            parts = [getattr(layer.attention.self, name) for name in ("query", "key", "value")]
            weight, bias = torch.cat([one.weight for one in parts]), torch.cat([one.bias for one in parts])
            self._layers.append((weight, bias, layer))

    def __call__(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Hidden states [tokens, hidden] of texts (each with a token) in their order; best in order of length."""
        lengths = [len(text) for text in texts]
        device = self._layers[0][0].device
        ids = torch.tensor([token for text in texts for token in text], device=device)
        places = torch.cat([self._places(text) for text in texts]).to(device)
        x = self._embeddings(input_ids=ids[None], position_ids=places[None])[0]
        for weight, bias, layer in self._layers:
            heard = self._attend(functional.linear(x, weight, bias), lengths)
            x = layer.attention.output(heard, x)
            x = layer.output(layer.intermediate(x), x)
        return x

    def _attend(self, qkv: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        hidden = qkv.shape[1] // 3
        heard = qkv.new_empty(qkv.shape[0], hidden)
        start = 0
        for length, same in groupby(lengths):
            end = start + length * len(list(same))
            q, k, v = (
                part.reshape(-1, length, self._heads, hidden // self._heads).transpose(1, 2)
                for part in qkv[start:end].split(hidden, 1)
            )
            found = functional.scaled_dot_product_attention(q, k, v)
            heard[start:end] = found.transpose(1, 2).reshape(-1, hidden)
            start = end
        return heard

    def _places(self, text: Sequence[int]) -> torch.Tensor:
        """0, 1, 2 …; RoBERTa counts from its padding's place on, and gives padding tokens that place itself."""
        if self._padding is None:
            return torch.arange(len(text))
        real = torch.tensor(text) != self._padding
        return real.cumsum(0) * real + self._padding


def can_pack(model: Any) -> bool:
    """Whether a transformers body is one that PackedBody knows: an encoder with absolute positions."""
    config = model.config
    return (
        config.model_type in _FAMILIES
        and not getattr(config, "is_decoder", False)
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
    )


def packs(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices, longest first, in packs of at most ``budget`` tokens, or of one text."""
    pack: list[int] = []
    tokens = 0
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if pack and tokens + lengths[at] > budget:
            yield pack
            pack, tokens = [], 0
        pack.append(at)
        tokens += lengths[at]
    if pack:
        yield pack
