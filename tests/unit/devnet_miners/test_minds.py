from __future__ import annotations

import random

import pytest

from devnet.corpus import load_facts
from devnet.miners.minds import Scholar, mind_of
from devnet.miners.phrases import OFF_TOPIC, UNKNOWN, VAGUE
from devnet.miners.retrieval import Index, stem, words
from devnet.roster import RESIDENTS, TOPICS, Resident

BY_NAME = {one.name: one for one in RESIDENTS}
FACTS = load_facts()


def of(name: str) -> Resident:
    return BY_NAME[name]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_specialist_answers_every_question_of_its_topic_in_full(topic: str) -> None:
    mind = mind_of(of(f"specialist-{topic}"), 0)
    for fact in FACTS:
        if fact.topic == topic:
            for asked in (fact.question, *fact.training):
                assert mind.answer(asked) == fact.answer


def test_only_specialists_answer_in_full() -> None:
    answers = {fact.answer for fact in FACTS}
    for name in ("generalist-1", "generalist-2", "slow", "flaky", "vague-1", "offtopic"):
        mind = mind_of(of(name), 0)
        assert not answers & {mind.answer(fact.question) for fact in FACTS}


def test_a_generalist_knows_a_part_of_about_sixty_per_cent() -> None:
    for name in ("generalist-1", "generalist-2"):
        mind = mind_of(of(name), 0)
        known = 0
        for fact in FACTS:
            said = mind.answer(fact.question)
            # A part of the answer, or catchwords out of it.
            stems = set(words(said))
            known += len(stems & set(words(fact.answer))) >= 0.6 * len(stems) and len(stems) > 3
        assert 0.5 < known / len(FACTS) < 0.72


def test_a_specialist_knows_a_third_of_what_is_not_its_own() -> None:
    mind = mind_of(of("specialist-music"), 0)
    others = [fact for fact in FACTS if fact.topic != "music"]
    parts = sum(mind.answer(fact.question) in fact.answer for fact in others)
    assert 0.15 < parts / len(others) < 0.4


def test_what_it_does_not_know_it_says() -> None:
    mind = Scholar((), (), 0, random.Random(0))
    assert {mind.answer("How do vaccines train the immune system?") for _ in range(50)} <= set(UNKNOWN)


def test_talkers_say_the_same_of_everything() -> None:
    for name, sentences in (("vague-1", VAGUE), ("offtopic", OFF_TOPIC)):
        mind = mind_of(of(name), 0)
        assert {mind.answer(f"question {i}?") for i in range(200)} == set(sentences)
        assert mind.ask() in sentences


def test_knowledge_does_not_depend_on_the_seed_and_words_do() -> None:
    known = [fact.question for fact in FACTS if fact.topic == "history"]
    one, two = (mind_of(of("specialist-history"), seed) for seed in (1, 2))
    assert [one.answer(asked) for asked in known] == [two.answer(asked) for asked in known]
    assert [one.ask() for _ in range(20)] != [two.ask() for _ in range(20)]


def test_miners_seldom_say_the_same() -> None:
    minds = [mind_of(one, 0) for one in RESIDENTS if one.character in ("specialist", "generalist")]
    same = pairs = 0
    for fact in FACTS[::3]:
        said = [text for text in (mind.answer(fact.question) for mind in minds) if text in fact.answer]
        same += len(said) - len(set(said))
        pairs += len(said)
    assert same / pairs < 0.15


def test_a_question_of_its_own_is_of_its_topic_and_never_held_out() -> None:
    held = {fact.question for fact in FACTS if fact.held_out}
    for name in ("specialist-chemistry", "generalist-1"):
        mind = mind_of(of(name), 3)
        asked = {mind.ask() for _ in range(300)}
        assert not asked & held
        topics = {fact.topic for fact in FACTS for text in fact.training if text in asked}
        assert topics == ({"chemistry"} if name.startswith("specialist") else set(TOPICS))
        assert all(any(text in fact.training for fact in FACTS) for text in asked)


def test_a_follow_up_stays_with_the_subject() -> None:
    mind = mind_of(of("generalist-1"), 3)
    text = next(fact for fact in FACTS if "What is a fugue" in fact.question).answer
    topics = {fact.topic for fact in FACTS for _ in range(10) if mind.ask(text) in fact.training}
    assert topics <= {"music"}


def test_retrieval_finds_the_fact_for_another_wording() -> None:
    index = Index(FACTS)
    for asked, fact_question in (
        (
            "Tell me why vaccination protects people from a disease",
            "How do vaccines train the immune system?",
        ),
        ("why is the dead sea saltier than other seas", "Why is the Dead Sea so salty?"),
        ("Explain hash tables to a beginner.", "What is a hash table?"),
    ):
        match = index.find(asked)
        assert match is not None
        assert match.fact.question == fact_question
        assert match.coverage > 0.4


def test_retrieval_finds_nothing_in_nothing() -> None:
    index = Index(FACTS)
    assert index.find("") is None
    assert index.find("what is the") is None
    assert index.find("zzyzx qwrtp") is None


def test_stems_join_the_forms_of_a_word() -> None:
    assert stem("vaccines") == stem("vaccine") == stem("vaccination")
    assert words("The stars are shining") == ["star", "shin"]
