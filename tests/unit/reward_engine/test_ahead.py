"""Work on a thread of its own: in order, bounded, and its errors where they belong; texts tokenised that way."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from services.reward.engine import Classifier
from services.reward.engine.ahead import WAITING, ahead
from tests.unit.reward_engine.test_equality import SPECIAL


def test_in_order_and_not_far_ahead() -> None:
    made: list[int] = []

    def make(n: int) -> int:
        made.append(n)
        return n * n

    found = ahead(make, range(20))
    assert made == []
    assert next(found) == 0
    assert len(made) <= WAITING + 1
    assert [*found] == [n * n for n in range(1, 20)]
    assert made == list(range(20))


def test_made_while_the_one_before_is_used() -> None:
    second = threading.Event()
    found = ahead(lambda n: second.set() if n == 1 else None, range(3))
    next(found)
    assert second.wait(10)


def test_an_error_comes_in_its_place_and_the_thread_ends() -> None:
    def make(n: int) -> int:
        if n == 2:
            raise ValueError("two")
        return n

    found = ahead(make, range(9))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)
    assert not [t for t in threading.enumerate() if t.name.startswith("reward-ahead")]


def test_the_thread_ends_when_nobody_wants_the_rest() -> None:
    found = ahead(lambda n: n, range(100))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("reward-ahead")]


@pytest.mark.parametrize("name", ["qwen3", "bert", "electra"])
def test_the_same_scores(name: str, classifier: Callable[[str], Classifier]) -> None:
    engine = classifier(name)
    groups = [*SPECIAL, *SPECIAL[:3]]
    wanted = [engine.score(groups), engine.score_difference(groups, 3.0)]
    engine.early = True
    try:
        found = [engine.score(groups), engine.score_difference(groups, 3.0)]
    finally:
        engine.early = False
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.concatenate(one), np.concatenate(other), atol=1e-6)


def test_texts_are_cut_whatever_else_is_tokenised_meanwhile(
    classifier: Callable[[str], Classifier],
) -> None:
    tokens = classifier("bert").tokens
    texts = [[f"{i} " + "some words " * 400] * 8 for i in range(60)]
    # What another request of the same model does on the thread that computes, such as cleaning: texts as they are.
    whole = len(tokens.tokenizer(texts[0][0], truncation=False)["input_ids"])
    assert whole > tokens.max_tokens
    for group in tokens.groups(texts, early=True):
        again = tokens.tokenizer(texts[0][0], truncation=False)["input_ids"]
        assert len(again) == whole
        assert {len(ids) for ids in group} == {tokens.max_tokens}
    assert tokens.tokenizer.backend_tokenizer.truncation is None
