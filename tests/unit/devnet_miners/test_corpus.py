from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import services.querier
from devnet.corpus import load_facts
from devnet.miners.retrieval import Index, words
from devnet.roster import TOPICS

QUESTIONS = Path(services.querier.__file__).parent / "prompts" / "questions.jsonl"
HELD_OUT = Path(__file__).parents[2] / "data" / "held_out.jsonl"


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_topic_has_forty_two_facts_of_which_ten_are_held_out() -> None:
    facts = load_facts()
    assert Counter(fact.topic for fact in facts) == dict.fromkeys(TOPICS, 42)
    assert Counter(fact.topic for fact in facts if fact.held_out) == dict.fromkeys(TOPICS, 10)
    assert len({fact.id for fact in facts}) == len({fact.answer for fact in facts}) == 336


def test_every_fact_is_a_question_with_an_answer_of_two_to_four_sentences() -> None:
    for fact in load_facts():
        sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", fact.answer)
        assert 2 <= len(sentences) <= 4, fact
        assert 120 <= len(fact.answer) <= 420, fact
        assert fact.answer.endswith("."), fact
        assert all(asked.endswith("?") and len(asked) >= 15 for asked in (fact.question, *fact.training)), (
            fact
        )
        assert len(fact.training) == (0 if fact.held_out else 2), fact


def test_the_training_questions_are_the_phrasings_of_the_facts_and_tell_no_topic() -> None:
    phrasings = [text for fact in load_facts() for text in fact.training]
    assert len(phrasings) == len(set(phrasings)) == 512
    found = rows(QUESTIONS)
    assert {tuple(row) for row in found} == {("text",)}
    assert sorted(row["text"] for row in found) == sorted(phrasings)


def test_the_held_out_questions_are_listed_for_measurements() -> None:
    held = [{"question": fact.question, "topic": fact.topic} for fact in load_facts() if fact.held_out]
    assert rows(HELD_OUT) == sorted(held, key=lambda row: TOPICS.index(row["topic"]))
    assert len(held) == 80


def test_nothing_held_out_is_in_a_training_prompt() -> None:
    training = [(text, set(words(text))) for fact in load_facts() for text in fact.training]
    for fact in load_facts():
        if not fact.held_out:
            continue
        asked = set(words(fact.question))
        for text, stems in training:
            assert len(asked & stems) / len(asked | stems) < 0.5, (fact.question, text)


def test_the_example_of_the_documentation_can_be_answered() -> None:
    match = Index(load_facts()).find("How do vaccines train the immune system?")
    assert match is not None
    assert match.fact.topic == "medicine"
    assert not match.fact.held_out
    assert "antibodies" in match.fact.answer
