"""What was made ready to be asked often says what the fold itself says."""

from __future__ import annotations

import numpy as np
import pytest

from services.gating.fold import GatingFold, GatingObservation
from services.gating.head import RULES

DIM, MINERS = 16, 24


def taught(rule: str) -> GatingFold:
    rng = np.random.default_rng(0)
    fold = GatingFold(rule, DIM)
    for _ in range(80):
        asked = rng.choice(MINERS, 10, replace=False)
        fold.apply(
            GatingObservation(
                embedding=rng.normal(size=DIM).astype(np.float32),
                hotkeys=(asked + 1).astype(np.uint64),
                rewards=rng.uniform(size=10),
                ok=rng.random(10) < 0.8,
                latency_s=rng.uniform(0.1, 4.0, 10),
            )
        )
    return fold


@pytest.mark.parametrize("rule", RULES)
def test_it_says_what_the_fold_says_of_the_known_and_of_strangers(rule: str) -> None:
    fold = taught(rule)
    hotkeys = np.array([3, 999, *range(5, MINERS + 1), 1000, 1], dtype=np.uint64)
    outlook = fold.outlook(hotkeys)
    rng = np.random.default_rng(1)
    for deadline in (None, 1.0, 1.0, 60.0, None):
        embedding = rng.normal(size=DIM).astype(np.float32)
        mean, std = fold.scores(embedding[None], hotkeys, deadline)
        x = outlook.describe(embedding)
        assert outlook.mean(x, deadline) == pytest.approx(mean[0], rel=1e-6, abs=1e-6)
        assert outlook.std(x, deadline) == pytest.approx(std[0], rel=1e-4, abs=1e-6)
        assert outlook.mean(x, deadline).dtype == outlook.std(x, deadline).dtype == np.float64


@pytest.mark.parametrize("rule", RULES)
def test_before_anything_was_learnt(rule: str) -> None:
    fold, hotkeys = GatingFold(rule, DIM), np.arange(1, 5, dtype=np.uint64)
    embedding = np.ones(DIM, dtype=np.float32)
    mean, std = fold.scores(embedding[None], hotkeys, 2.0)
    outlook = fold.outlook(hotkeys)
    x = outlook.describe(embedding)
    assert outlook.mean(x, 2.0) == pytest.approx(mean[0], rel=1e-6)
    assert outlook.std(x, 2.0) == pytest.approx(std[0], rel=1e-6)
