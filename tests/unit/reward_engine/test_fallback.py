"""Whether sequences of unlike length may share a batch: only where padding changes nothing, in any number type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from services.reward.engine import ModelError, TokenBudget, load_classifier
from services.reward.engine.backend import Backend
from services.reward.engine.build import proven
from services.reward.engine.fallback import Fallback
from services.reward.models import Models

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


@pytest.mark.parametrize(
    "error", [RuntimeError("no kernel image\nfor this device"), AttributeError("q_proj")]
)
def test_a_packed_forward_that_fails_where_it_is_tried_is_not_used(
    error: Exception, model_path: Callable[[str], Path]
) -> None:
    plain = load_classifier(model_path("electra")).backend
    assert isinstance(plain, Fallback)

    class Failing:
        def rows(self, *_: object) -> np.ndarray:
            raise error

    def broken() -> Backend:
        raise error

    for make in (Failing, broken):
        used, why = proven(make, plain, 99, 64)
        assert used is plain
        assert (
            why
            == f"its packed forward fails here: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        )


def test_a_model_that_does_not_fit_is_no_reason_to_try_another_way(model_path: Callable[[str], Path]) -> None:
    plain = load_classifier(model_path("electra")).backend
    assert isinstance(plain, Fallback)

    def too_large() -> Backend:
        raise ModelError("out_of_memory", "The model ran out of memory.", "Use a smaller one.")

    with pytest.raises(ModelError, match="ran out"):
        proven(too_large, plain, 99, 64)


def test_whoever_runs_the_service_is_told(model_path: Callable[[str], Path]) -> None:
    with capture_logs() as logs:
        for name in ("electra", "bert"):
            Models().classifier(str(model_path(name)), label=0, max_tokens=None)
    (told,) = logs
    assert told["log_level"] == "warning"
    assert told["model"].endswith("electra")
    assert told["reason"] == "electra has no packed forward"
