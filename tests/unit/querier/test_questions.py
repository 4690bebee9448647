"""Which training questions are worth asking."""

from __future__ import annotations

import pytest

from coremesh.settings import TrainerSettings
from services.querier.prompts import load_prompts, load_questions
from services.querier.questions import Bundled, Sieve


def test_each_bundled_question_comes_once_before_any_again() -> None:
    bundled = Bundled(("a", "b", "c"), seed=1)
    assert sorted(bundled.next() for _ in range(3)) == ["a", "b", "c"]
    assert sorted(bundled.next() for _ in range(3)) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="no bundled questions"):
        Bundled(())


def test_a_sieve_lets_a_question_pass_once_however_it_is_spelt() -> None:
    sieve = Sieve(200)
    assert sieve.take("  What is a  quasar?\x00") == "What is a quasar?"
    assert sieve.take("what is a QUASAR") is None
    assert sieve.take("What is a pulsar?") == "What is a pulsar?"


@pytest.mark.parametrize(
    "text", ["", "   ", "Why? Why?", "too short", "spam " * 30, "?!?!?!?!?!?!?!?!", "\ud800" * 50]
)
def test_what_is_no_question_does_not_pass(text: str) -> None:
    assert Sieve(200).take(text) is None


def test_a_question_in_a_script_without_blanks_passes() -> None:
    sieve = Sieve(200)
    assert sieve.take("为什么天空在白天看起来是蓝色的？") == "为什么天空在白天看起来是蓝色的？"
    assert sieve.take("為什麼太陽在傍晚的時候看起來是紅色的？") is not None
    assert sieve.take("光合成は植物の中でどのように働きますか？") is not None
    assert sieve.take("为什么天空在白天看起来是蓝色的?") is None
    assert sieve.take("哈哈哈哈哈哈哈哈哈哈哈哈？") is None


def test_a_sieve_forgets_the_oldest() -> None:
    sieve = Sieve(200, remembered=10)
    for n in range(50):
        assert sieve.take(f"What is the number {n} good for?") is not None
    assert len(sieve) == 10
    assert sieve.take("What is the number 49 good for?") is None
    assert sieve.take("What is the number 0 good for?") is not None


def test_bundled_prompts_are_there_and_can_be_replaced() -> None:
    prompts = load_prompts(TrainerSettings(question_prompt="Ask me something."))  # pyright: ignore
    assert prompts.question == "Ask me something."
    assert len(prompts.base) > 50
    assert len(prompts.follow_up) > 50
    questions = load_questions()
    assert len(questions) > 300
    assert len(set(questions)) == len(questions)
    sieve = Sieve(1000)
    assert all(sieve.take(question) == question for question in questions)
