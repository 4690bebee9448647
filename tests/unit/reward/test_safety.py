"""The safety filter: windows, the worst of them, and its place in the stack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coremesh.modelfiles import MINILM
from services.reward.batch import Batch, Turn
from services.reward.build import build
from services.reward.config import StackConfig
from services.reward.masks.safety import Safety
from services.reward.models import Models, SafetyOps, probability
from services.reward.statistics import Statistics
from services.reward.work import Inline
from tests.unit.reward.models import one_by_one, save_classifier


def config_of(path: Path, **more: object) -> StackConfig:
    relevance = {"type": "relevance", "model": MINILM}
    return StackConfig.model_validate({"function": [relevance], "safety": {"model": str(path), **more}})


def softmax(rows: list[list[float]], label: int) -> list[float]:
    powers = np.exp(np.array(rows))
    return (powers / powers.sum(axis=1, keepdims=True))[:, label].tolist()


async def test_a_long_text_is_as_unsafe_as_its_worst_window(tmp_path: Path):
    path = save_classifier(tmp_path / "model", bert=True, labels=2)
    model = Models().classifier(str(path), label=1, max_tokens=None)
    texts = ["The sky is blue.", "blue light " * 700, ""]
    _, scores = await Safety(SafetyOps(model), threshold=0.5).judge(texts, Inline())
    long = model.logits(model.windows(texts[1], 512, 64))
    assert len(long) > 2
    plain = softmax(one_by_one(path, [texts[0], texts[2]]), 1)
    assert scores == pytest.approx([plain[0], max(softmax(long.tolist(), 1)), plain[1]], abs=1e-5)


async def test_a_passage_across_the_end_of_a_window_is_judged_as_a_whole(tmp_path: Path):
    path = save_classifier(tmp_path / "model", bert=True, labels=2)
    model = Models().classifier(str(path), label=1, max_tokens=None)
    (words,) = model.windows("blue light " * 28, 512)
    # What stands at its ends is joined to its neighbours.
    passage = words[8:-8]
    assert SafetyOps.OVERLAP // 2 < len(passage) <= SafetyOps.OVERLAP
    ops = SafetyOps(model)
    for before in range(0, 600, 16):
        (windows,) = ops.windows.run(["sky " * before + "blue light " * 28 + "sky " * 600])
        assert any(passage == one[i : i + len(passage)] for one in windows for i in range(len(one)))
        assert max(map(len, windows)) == ops.WINDOW


async def test_unsafe_completions_are_masked(tmp_path: Path):
    path = save_classifier(tmp_path / "model", bert=True, labels=2)
    completions = ("The air scatters blue light.", "Because the sea is blue.")
    model = Models().classifier(str(path), label=1, max_tokens=None)
    _, alone = await Safety(SafetyOps(model), threshold=0.5).judge(completions, Inline())
    low, high = sorted(alone)
    built = build(config_of(path, threshold=(low + high) / 2), Models())
    assert built.safety is not None
    batch = Batch((Turn("user", "Why is the sky blue?"),), completions, "answer", Inline())
    scored = await built.stack.score(batch, Statistics())
    safe, scores = await built.safety.judge(completions, Inline())
    assert sorted(safe) == [False, True]
    assert scores == pytest.approx(alone)
    assert scored.masks["safety"].tolist() == [float(one) for one in safe]
    assert [reward > 0 for reward in scored.rewards] == safe


def test_it_can_filter_without_masking_and_be_switched_off(tmp_path: Path):
    path = save_classifier(tmp_path / "model", bert=True, labels=2)
    aside = build(config_of(path, mask=False), Models())
    off = build(config_of(path), Models(), safety=False)
    on = build(config_of(path), Models())
    assert (aside.safety is not None, "safety" in aside.stack.masks) == (True, False)
    assert (off.safety, off.stack.masks) == (None, {})
    assert len({aside.stack.version, off.stack.version, on.stack.version}) == 3


def test_what_is_no_number_is_unsafe():
    logits = np.array([[0.0, np.nan], [0.0, 0.0]], dtype=np.float32)
    assert probability(logits, 1).tolist() == [1.0, 0.5]
    assert probability(np.array([[0.0], [100.0]], dtype=np.float32), 0).tolist() == [0.5, 1.0]
