"""A causal language model with a linear value head, as Dahoas published his GPT-J reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from services.reward.engine.errors import ModelError
from services.reward.engine.safetensors import read_tensors


def read_head(path: Path, width: int) -> torch.nn.Linear:
    """The head in a safetensors file: one tensor `[1, width]` (or `[width]`), at most one bias `[1]`."""
    tensors = read_tensors(path)
    weights = [t for t in tensors.values() if t.numel() == width]
    biases = [t for t in tensors.values() if t.numel() == 1]
    if len(weights) != 1 or len(biases) > 1 or len(tensors) != len(weights) + len(biases):
        raise ModelError(
            "model_incompatible",
            f"The value head at {path} is not one vector of {width} numbers (and a bias or none).",
            "Use the head that was trained with this model, alone in its file.",
        )
    head = torch.nn.Linear(width, 1, bias=bool(biases))
    with torch.no_grad():
        head.weight.copy_(weights[0].reshape(1, width))
        if biases:
            head.bias.copy_(biases[0].reshape(1))
    return head.requires_grad_(False)


def value_position(ids: torch.Tensor, eos_id: int | None) -> torch.Tensor:
    """`[n]`: where the value of each row of `ids` `[n, length]` is read.

    The token before the first end-of-text, the last one if there is none, the first if it is the first.
    """
    length = ids.shape[1]
    if eos_id is None:
        return torch.full((len(ids),), length - 1, device=ids.device)
    where = torch.arange(length, device=ids.device).expand_as(ids)
    first = torch.where(ids == eos_id, where, length).min(dim=1).values
    return (first - 1).clamp_min(0)


class ValueModel(torch.nn.Module):
    """`body` (an AutoModel) and `head`; forward gives `[n, 1]`."""

    def __init__(self, body: Any, head: torch.nn.Linear, eos_id: int | None) -> None:
        super().__init__()
        self.body = body
        self.head = head.to(body.dtype)
        self.eos_id = eos_id

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.body.dtype

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`[n, 1]`: the value of each row; rows are padded on the right with the end-of-text token."""
        hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        at = value_position(ids, self.eos_id)
        return self.head(hidden[torch.arange(len(ids), device=ids.device), at])
