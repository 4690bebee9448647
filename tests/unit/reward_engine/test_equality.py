"""The engine's scores are those of plain transformers, one text at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.reward.engine import Classifier, Group
from tests.unit.reward_engine import models

Load = Callable[[str], Classifier]
Plain = Callable[[str, Sequence[str]], np.ndarray]

PACKED = [*models.DECODERS, *models.ENCODERS]
TOLERANCE = 1e-5

_pieces = st.sampled_from(
    ["the", " validator", " asks", "12 ", "\n", "blue?", " ü✓", "  ", "because", "x" * 40]
)
_text = st.integers(0, 40).flatmap(lambda n: st.lists(_pieces, min_size=n, max_size=n).map("".join))
_groups = st.lists(
    st.tuples(_text, st.lists(st.text(max_size=5) | _text, min_size=1, max_size=7)), min_size=1, max_size=4
)

SPECIAL = [
    Group("", ("a",)),  # one token, nothing shared
    Group("What is a mesh?", ("",)),  # the prompt alone
    Group(
        "The sky", (" is blue.", " is blue.", " is blue", "")
    ),  # copies, and one that is a prefix of another
    Group("Short", tuple("abcdefghijkl")),
    Group("longer than the model takes " * 80, (" one", " two")),  # cut off before they differ
    Group("Why? ", ("because " * 100, "x", "because " * 40 + "no")),  # longer than one block of queries
    Group("pads <|pad|>", (" end<|pad|>", " <|endoftext|> in the middle", "[PAD] [MASK]")),
]


def flat(groups: Sequence[Group]) -> list[str]:
    return [g.prompt + c for g in groups for c in g.completions]


@pytest.mark.parametrize("name", PACKED)
def test_special_cases(name: str, classifier: Load, plain: Plain) -> None:
    engine = classifier(name)
    assert (engine.kind, engine.why_fallback) == (
        "decoder" if name in models.DECODERS else "encoder",
        None,
    )
    scores = engine.score(SPECIAL)
    assert [len(s) for s in scores] == [len(g.completions) for g in SPECIAL]
    assert {s.dtype for s in scores} == {np.dtype(np.float32)}
    np.testing.assert_allclose(np.concatenate(scores), plain(name, flat(SPECIAL))[:, 0], atol=TOLERANCE)


@pytest.mark.parametrize("name", ["qwen3", "gpt_neox", "gptj", "llama", "bert", "roberta", "deberta-v3"])
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=_groups)
def test_any_groups(name: str, drawn: list[tuple[str, list[str]]], classifier: Load, plain: Plain) -> None:
    groups = [Group(p or "q", tuple(c)) for p, c in drawn]
    found = np.concatenate(classifier(name).score(groups))
    np.testing.assert_allclose(found, plain(name, flat(groups))[:, 0], atol=TOLERANCE)


@pytest.mark.parametrize("budget", [16, 40, 100, 10_000])
@pytest.mark.parametrize("name", ["qwen3", "gptj", "bert", "deberta-v3"])
def test_budgets_split_work_not_scores(name: str, budget: int, classifier: Load, plain: Plain) -> None:
    engine = classifier(name)
    groups = [
        Group("The same long enough prompt for all. ", tuple(f"answer {i} " * (i + 1) for i in range(9)))
    ] * 2
    before, engine.budget.tokens = engine.budget.tokens, budget
    try:
        found = np.concatenate(engine.score(groups))
    finally:
        engine.budget.tokens = before
    np.testing.assert_allclose(found, plain(name, flat(groups))[:, 0], atol=TOLERANCE)


@pytest.mark.parametrize("name", ["qwen3", "gpt_neox", "bert", "gpt2"])
@pytest.mark.parametrize("shift", [3.0, 0.0, -0.2])
def test_difference(name: str, shift: float, classifier: Load, plain: Plain) -> None:
    groups = [
        Group("Why is the sky blue? ", ("Short waves.", "No idea", "x")),
        Group("ab", ("Short waves.",)),
    ]
    found = classifier(name).score_difference(groups, shift)
    alone = np.array([plain(name, [c])[0, 0] for g in groups for c in g.completions])
    both = plain(name, flat(groups))[:, 0]
    wanted = np.maximum(both + shift, 0) - np.maximum(alone + shift, 0)
    assert [len(f) for f in found] == [3, 1]
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=2 * TOLERANCE)
    np.testing.assert_allclose(
        classifier(name).score_alone([c for g in groups for c in g.completions]), alone, atol=TOLERANCE
    )


def test_difference_of_an_empty_prompt_is_nothing(classifier: Load) -> None:
    (found,) = classifier("qwen3").score_difference([Group("", ("one", "two"))], 3.0)
    assert found.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", sorted(models.OTHERS))
def test_unknown_architectures_fall_back_and_say_so(name: str, classifier: Load, plain: Plain) -> None:
    engine = classifier(name)
    assert (engine.kind, engine.why_fallback) == ("fallback", f"{name} has no packed forward")
    groups = [g for g in SPECIAL if "pad" not in g.prompt]
    np.testing.assert_allclose(
        np.concatenate(engine.score(groups)), plain(name, flat(groups))[:, 0], atol=TOLERANCE
    )


@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_nothing_to_score(name: str, classifier: Load) -> None:
    engine = classifier(name)
    assert engine.score([]) == []
    assert [s.shape for s in engine.score([Group("p", ()), Group("p", ("c",))])] == [(0,), (1,)]
    assert [s.shape for s in engine.score_difference([Group("p", ())], 3.0)] == [(0,)]
    assert engine.score_texts([]).shape == (0,)
    assert np.isfinite(engine.score([Group("", ("",))])[0]).all()


@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_hostile_texts_are_scored(name: str, classifier: Load) -> None:
    texts = ["\ud800 alone", "\x00\x01", "🤯" * 5000, "a" * 1_000_000, " " * 1_000_000]
    assert np.isfinite(classifier(name).score_texts(texts)).all()


def test_windows_cover_the_text(classifier: Load, plain: Plain) -> None:
    engine = classifier("bert")
    text = "A validator asks many miners. " * 60
    windows = engine.windows(text, 64)
    inner = [i for w in windows for i in w[1:-1]]
    assert inner == engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert {(w[0], w[-1]) for w in windows} == {(1, 2)}
    assert max(map(len, windows)) == 64
    assert engine.logits(windows).shape == (len(windows), 1)
    assert engine.windows("", 64) == [[1, 2]]
    np.testing.assert_allclose(
        engine.logits(engine.windows("blue", 64)), plain("bert", ["blue"]), atol=TOLERANCE
    )
