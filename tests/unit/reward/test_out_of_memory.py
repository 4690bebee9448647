"""A device that runs out of memory: half the tokens from then on, the same scores, and a metric that says so."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from services.reward.app import report_halvings
from services.reward.batch import Batch, Turn
from services.reward.build import build
from services.reward.config import StackConfig
from services.reward.engine.backend import DecoderBackend
from services.reward.engine.decoder import PackedDecoder
from services.reward.models import Models
from services.reward.statistics import Statistics
from services.reward.work import Inline
from tests.unit.reward.models import save_classifier
from tests.wait import wait_until

TURNS = (Turn("user", "Why is the sky blue?"),)
COMPLETIONS = tuple(f"{i}: the air scatters blue light more than red light" for i in range(12))


class Cramped(torch.nn.Module):
    """A head whose device has no room for more than ``most`` texts at once."""

    def __init__(self, head: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.head, self.most = head, most

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The head's, or torch's own error."""
        if len(states) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.head(states)


async def scores(models: Models, path: Path) -> np.ndarray:
    part = {"type": "sequence_classifier", "model": str(path)}
    stack = build(StackConfig.model_validate({"function": [part]}), models).stack
    batch = Batch(TURNS, COMPLETIONS, "answer", Inline())
    return (await stack.score(batch, Statistics())).raw["sequence_classifier"]


async def test_half_the_tokens_the_same_scores_and_a_metric(tmp_path: Path):
    path = save_classifier(tmp_path / "model")
    wanted = await scores(Models(), path)
    models = Models()
    loaded = models.classifier(str(path), label=0, max_tokens=None)
    backend = loaded.backend
    assert isinstance(backend, DecoderBackend)
    decoder = replace(backend.model.decoder, head=Cramped(backend.model.decoder.head, 3))
    loaded.backend = DecoderBackend(PackedDecoder(decoder, backend.model.attention), backend.read_at)
    assert (await scores(models, path)).tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    halvings = loaded.oom_halvings
    assert halvings >= 1
    assert loaded.budget.tokens == 2048 >> halvings
    assert (await scores(models, path)).tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    assert loaded.oom_halvings == halvings
    reporting = asyncio.create_task(report_halvings(models))
    said = {"model": str(path)}
    await wait_until(lambda: REGISTRY.get_sample_value("coremesh_reward_oom_halvings", said) == halvings)
    reporting.cancel()


def test_a_model_that_is_loaded_twice_is_counted_as_one(tmp_path: Path):
    path = str(save_classifier(tmp_path / "model"))
    models = Models()
    models.classifier(path, label=0, max_tokens=None).budget.oom_halvings = 2
    models.classifier(path, label=0, max_tokens=64)
    assert models.halvings() == {path: 2}
