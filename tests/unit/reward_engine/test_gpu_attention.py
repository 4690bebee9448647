"""The attention used on GPUs, in its padded form, on the CPU: the same numbers as the CPU's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from services.reward.engine import Classifier
from services.reward.engine.attention_gpu import GpuAttention, GpuFullAttention, varlen_works
from services.reward.engine.backend import DecoderBackend, EncoderBackend
from services.reward.engine.bert import PackedBert
from services.reward.engine.budget import TokenBudget
from services.reward.engine.deberta import CpuDisentangledAttention
from services.reward.engine.deberta_gpu import GpuDisentangledAttention
from services.reward.engine.decoder import PackedDecoder
from tests.unit.reward_engine import models
from tests.unit.reward_engine.test_equality import SPECIAL


def as_on_a_gpu(backend: DecoderBackend | EncoderBackend) -> DecoderBackend | EncoderBackend:
    if isinstance(backend, DecoderBackend):
        decoder = backend.model.decoder
        return DecoderBackend(PackedDecoder(decoder, GpuAttention(decoder.shape)), backend.read_at)
    own = backend.model.attention
    other = (
        GpuDisentangledAttention(own.relative)
        if isinstance(own, CpuDisentangledAttention)
        else GpuFullAttention()
    )
    return EncoderBackend(
        PackedBert(backend.model.bert, other, first_only=backend.model.first_only), backend.read
    )


@pytest.mark.parametrize("tokens", [40, 700, 16_384])
@pytest.mark.parametrize("name", [*models.DECODERS, *models.ENCODERS])
def test_same_scores(name: str, tokens: int, classifier: Callable[[str], Classifier]) -> None:
    engine = classifier(name)
    groups = [engine.tokens.of([g.prompt + c for c in g.completions]) for g in SPECIAL]
    backend = engine.backend
    assert isinstance(backend, DecoderBackend | EncoderBackend)
    wanted = backend.rows(groups, TokenBudget(2048))
    found = as_on_a_gpu(backend).rows(groups, TokenBudget(tokens))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_variable_length_kernels_are_for_gpus() -> None:
    assert not varlen_works(torch.device("cpu"), torch.bfloat16, 64)
