"""Token ids to unit vectors, with torch and numpy alone: packed where the model allows, else padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from services.gating.packed import Attention, PackedBody, can_pack, packs

Pooling = Literal["mean", "cls", "last"]
CPU_TOKENS, ACCELERATOR_TOKENS = 2048, 16_384
"""A CPU is busy with 2k tokens; a GPU wants more at once."""


class Forward:
    """A transformers body with pooling. Not for two threads at once.

    A batch has at most ``budget`` tokens, padding included, or one text. BERT and its relatives are computed without
    padding (packed.py), others in padded batches of similar length; ``packed`` false pads all.
    """

    def __init__(
        self,
        model: Any,
        pooling: Pooling,
        *,
        pad_token: int = 0,
        budget: int | None = None,
        packed: bool = True,
        attention: Attention | None = None,
        on_batch: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        """``on_batch`` is told the tokens of each batch; ``attention`` is PackedBody's."""
        self._model = model
        self._device: torch.device = next(model.parameters()).device
        self._pooling = pooling
        self._pad_token = pad_token
        self.budget = budget or (CPU_TOKENS if self._device.type == "cpu" else ACCELERATOR_TOKENS)
        self._packed = PackedBody(model, attention) if packed and can_pack(model) else None
        self._on_batch = on_batch

    def __call__(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Unit vectors float32 [n, dim], aligned with ``texts``, token ids of which each has one at least. Blocking."""
        out = np.zeros((len(texts), int(self._model.config.hidden_size)), dtype=np.float32)
        if not texts:
            return out
        lengths = [len(text) for text in texts]
        order: list[int] = []
        found: list[torch.Tensor] = []
        with torch.inference_mode():
            for batch in (batches if self._packed is None else packs)(lengths, self.budget):
                rows = [texts[at] for at in batch]
                pooled = self._pad(rows) if self._packed is None else self._pack(self._packed, rows)
                found.append(torch.nn.functional.normalize(pooled, dim=1))
                order += batch
            # Fetched once: an accelerator computes one batch while the next is made ready.
            out[order] = torch.cat(found).cpu().numpy()
        return out

    def _pack(self, body: PackedBody, rows: list[Sequence[int]]) -> torch.Tensor:
        pack = body.pack(rows)
        self._on_batch(pack.tokens)
        hidden = body(pack).float()
        ends = pack.lengths.cumsum(0)
        if self._pooling == "cls":
            return hidden[ends - pack.lengths]
        if self._pooling == "last":
            return hidden[ends - 1]
        return torch.segment_reduce(hidden, "mean", lengths=pack.lengths, unsafe=True)

    def _pad(self, rows: list[Sequence[int]]) -> torch.Tensor:
        longest = max(map(len, rows))
        self._on_batch(longest * len(rows))
        ids = np.full((len(rows), longest), self._pad_token, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
            mask[at, : len(row)] = 1
        attention = torch.from_numpy(mask).to(self._device)
        hidden = self._model(
            input_ids=torch.from_numpy(ids).to(self._device), attention_mask=attention
        ).last_hidden_state.float()
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "last":
            last = attention.sum(dim=1) - 1
            return hidden[torch.arange(len(rows), device=hidden.device), last]
        weight = attention.unsqueeze(-1).float()
        return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length; count times longest is at most ``budget``, or the batch has one."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    batch: list[int] = []
    for at in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
