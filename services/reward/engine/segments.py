"""Pairs of texts in one sequence: which tokens belong to the second."""

from __future__ import annotations

import inspect

import numpy as np
import torch

from services.reward.engine.errors import ModelError
from services.reward.engine.load import Opened


def segments(ids: torch.Tensor, separator: int) -> torch.Tensor:
    """Of the same shape `[n, length]`: 0 up to the first separator, and it, 1 behind it."""
    here = (ids == separator).long()
    return (here.cumsum(-1) - here).clamp_max(1)


def second(ids: np.ndarray, separator: int) -> np.ndarray:
    """The same for one sequence, as booleans."""
    here = ids == separator
    return np.cumsum(here) > here


def separator_of(found: Opened) -> int | None:
    """The id of the separator token of a model that tells the halves of a pair apart; None if it does not.

    Raises `ModelError` where its tokenizer numbers the halves otherwise than `segments`.
    """
    takes = "token_type_ids" in inspect.signature(found.model.forward).parameters
    if not takes or getattr(found.text, "type_vocab_size", 0) < 2:
        return None
    pair = found.tokenizer("first text", "second text")
    kinds, ids = pair.get("token_type_ids", []), pair["input_ids"]
    if not any(kinds):
        return None
    separator = found.tokenizer.sep_token_id
    if separator is None or segments(torch.tensor([ids]), separator)[0].tolist() != kinds:
        raise ModelError(
            "model_incompatible",
            f"The tokenizer at {found.path} numbers the halves of a pair in a way that is not BERT's.",
            "Write prompt and completion as one text, or choose another model.",
        )
    return separator
