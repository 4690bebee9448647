"""Other work on the same models may run at every place where the engine lets others go first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from services.reward.engine import Classifier, Group
from services.reward.engine.turns import give_way, giving_way
from tests.unit.reward_engine import models

GROUPS = [
    Group("The same long enough prompt for all. ", tuple(f"answer {i} " * (i + 1) for i in range(9))),
    Group("Why? ", ("because " * 30, "x")),
]
OTHERS = [Group("Quite another prompt, longer than eight tokens. ", ("yes", "no " * 20))]


@pytest.mark.parametrize("name", ["qwen3", "gptj", "bert", "deberta-v3", "gpt2"])
def test_scores_stay_what_they_are(name: str, classifier: Callable[[str], Classifier]) -> None:
    engine = classifier(name)
    wanted, others = np.concatenate(engine.score(GROUPS)), np.concatenate(engine.score(OTHERS))
    within: list[np.ndarray] = []
    inside: list[int] = []

    def hook() -> int:
        if not inside:
            inside.append(1)
            within.append(np.concatenate(engine.score(OTHERS)))
            inside.clear()
        return 64

    with giving_way(hook):
        found = np.concatenate(engine.score(GROUPS))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    packed = name in {*models.DECODERS, *models.ENCODERS}
    # Between texts, between calls of at most 64 tokens, and between the layers of each.
    assert len(within) > (12 if packed else 2)
    for one in within:
        np.testing.assert_allclose(one, others, atol=1e-5)


def test_without_a_hook_nothing_happens() -> None:
    assert give_way() is None
    with giving_way(lambda: 7):
        assert give_way() == 7
    assert give_way() is None
