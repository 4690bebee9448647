"""BERT and its relatives without padding: every token of every text is a row of one matrix.

Only attention has to know where a text ends (attention.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from services.gating.attention import Attend, by_equal_length, by_offsets, by_similar_length

Attention = Literal["equal", "similar", "offsets"]
_FAMILIES = frozenset({"bert", "roberta", "xlm-roberta", "camembert"})
_ATTENTION: dict[Attention, Callable[[Sequence[int], int, torch.device], Attend]] = {
    "equal": by_equal_length,
    "similar": by_similar_length,
    "offsets": by_offsets,
}


@dataclass(frozen=True)
class Pack:
    """Texts on the model's device: ids and positions int64 [tokens], lengths int64 [texts], and how they attend."""

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: torch.Tensor
    attend: Attend

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.ids.shape[0]


class PackedBody:
    """The forward of a transformers BERT-like body, which is used and not copied but for its attention's inputs."""

    def __init__(self, model: Any, attention: Attention | None = None) -> None:
        """``model`` is one that ``can_pack``. Without ``attention``: by equal lengths on a CPU, where many small calls
        cost less than padding, and by similar lengths elsewhere."""
        config = model.config
        self._embeddings = model.embeddings
        self._heads = int(config.num_attention_heads)
        self._padding = None if config.model_type == "bert" else int(model.embeddings.padding_idx)
        self._layers: list[tuple[torch.Tensor, torch.Tensor, Any]] = []
        for layer in model.encoder.layer:
            parts = [getattr(layer.attention.self, name) for name in ("query", "key", "value")]
            weight, bias = torch.cat([one.weight for one in parts]), torch.cat([one.bias for one in parts])
            self._layers.append((weight, bias, layer))
        self._device = self._layers[0][0].device
        chosen: Attention = "equal" if self._device.type == "cpu" else "similar"
        self._attend = _ATTENTION[attention or chosen]

    def pack(self, texts: Sequence[Sequence[int]]) -> Pack:
        """Token ids of texts (longest first, each with a token) made ready."""
        lengths = np.array([len(text) for text in texts])
        ids = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
        both = torch.from_numpy(np.stack([ids, self._positions(ids, lengths)])).to(self._device)
        attend = self._attend(lengths.tolist(), self._heads, self._device)
        return Pack(both[0], both[1], torch.from_numpy(lengths).to(self._device), attend)

    def __call__(self, pack: Pack) -> torch.Tensor:
        """Hidden states [tokens, hidden] of a pack, in its order."""
        x = self._embeddings(
            input_ids=pack.ids[None],
            position_ids=pack.positions[None],
            token_type_ids=torch.zeros_like(pack.ids)[None],
        )[0]
        for weight, bias, layer in self._layers:
            heard = pack.attend(functional.linear(x, weight, bias))
            x = layer.attention.output(heard, x)
            x = layer.output(layer.intermediate(x), x)
        return x

    def _positions(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """0, 1, 2 …; RoBERTa counts from its padding's place on, and gives padding tokens that place itself."""
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        if self._padding is None:
            return np.arange(ids.size) - starts
        real = ids != self._padding
        counted = np.r_[0, np.cumsum(real)]
        return (counted[1:] - counted[starts]) * real + self._padding


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
