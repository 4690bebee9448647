from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import services.querier
from devnet.miners.tasks import Answer, Ask, Summarise, task_of

PROMPTS = tomllib.loads((Path(services.querier.__file__).parent / "prompts" / "prompts.toml").read_text())


@pytest.mark.parametrize(
    "text",
    [
        PROMPTS["question"],
        "Ask me a random question about anything. Make it domain specific and leave the answer out.",
        "Generate a single hard question from a field of your choice",
    ],
)
def test_a_request_for_a_question(text: str) -> None:
    assert task_of(["user"], [text]) == Ask("")


def test_a_request_for_a_follow_up_question() -> None:
    passage = "Ice floats on water. It is less dense."
    assert task_of(["user"], [f"{passage}\n\n{PROMPTS['follow_up']}"]) == Ask(passage)
    roles, order = ["system", "user", "assistant", "user"], "Now pose a follow-up question."
    assert task_of(roles, ["Be brief.", "Why?", "Ice floats.", order]) == Ask("Why? Ice floats.")
    assert task_of(["user"], [f"{order}\nIce floats."]) == Ask("Ice floats.")


def test_a_request_for_a_summary() -> None:
    assert task_of(["user"], ["Summarise this: Ice floats. It is light."]) == Summarise(
        "Ice floats. It is light."
    )


@pytest.mark.parametrize(
    "text",
    [
        "How do vaccines train the immune system?",
        "Why do children ask so many questions?",
        "Can you write down which questions Newton left open?",
        "tell me about whales",
        "",
    ],
)
def test_anything_else_is_to_be_answered(text: str) -> None:
    assert task_of(["system", "user"], ["Ask no question back.", text]) == Answer(text)


def test_the_last_user_message_counts() -> None:
    roles = ["user", "assistant", "user"]
    assert task_of(roles, ["Ask a question.", "Why?", "What is ice?"]) == Answer("What is ice?")
    assert task_of(["assistant"], ["What is ice?"]) == Answer("What is ice?")
