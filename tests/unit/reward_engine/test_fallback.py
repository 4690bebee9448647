"""Whether sequences of unlike length may share a batch: only where padding changes nothing, in any number type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.reward.engine import TokenBudget, load_classifier
from services.reward.engine.fallback import Fallback

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Smeared(torch.nn.Module):
    """A model that mixes all places of a row, padding too, as models that take no mask do."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype


def mean(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return ids.to(model.dtype).mean(1, keepdim=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_padding_changes_is_never_padded(dtype: torch.dtype) -> None:
    plain = Fallback(Smeared(dtype), mean, 0, "cpu")
    assert not plain.pads
    texts = [[6, 8], [4, 4, 4, 4, 4, 4], [10]]
    alone = [plain.rows([[text]], TokenBudget(64)) for text in texts]
    np.testing.assert_array_equal(plain.rows([texts], TokenBudget(64)), np.concatenate(alone))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_that_it_does_not_is(dtype: torch.dtype, model_path: Callable[[str], Path]) -> None:
    backend = load_classifier(model_path("electra"), dtype=dtype).backend
    assert isinstance(backend, Fallback)
    assert backend.pads
