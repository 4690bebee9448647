"""Which texts of miners are questions."""

from __future__ import annotations

import pytest

from services.querier.questions import Sieve, question_in


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Why is the sky blue?", "Why is the sky blue?"),
        ("Sure! Here is one: Why is the sky blue?", "Why is the sky blue?"),
        ("Certainly, here is a question for you: Why is the sky blue?", "Why is the sky blue?"),
        ("Question 3: Why is the sky blue?", "Why is the sky blue?"),
        ("1. “Why is the sky blue?”", "Why is the sky blue?"),
        ("Why is the sky blue? It scatters.", "Why is the sky blue?"),
        (
            "In 1905 Einstein wrote four papers. Which came first?",
            "In 1905 Einstein wrote four papers. Which came first?",
        ),
        ("天空为什么是蓝色的？", "天空为什么是蓝色的？"),
        ("لماذا السماء زرقاء؟", "لماذا السماء زرقاء؟"),
        ("The sky is blue because air scatters light.", None),
        ("Why? Because air scatters blue light more strongly than red light.", None),
        ("What? Where? When? Who asked this?", None),
        ("", None),
    ],
)
def test_a_question_is_taken_out_of_what_surrounds_it(text: str, question: str | None) -> None:
    assert question_in(text) == question


def test_a_sieve_takes_questions_only() -> None:
    sieve = Sieve(200)
    assert sieve.take("The sky is blue because air scatters light.") is None
    assert sieve.take("Sure! Here is one: Why is the sky blue?") == "Why is the sky blue?"
    assert sieve.take("Why is the sky blue?") is None
