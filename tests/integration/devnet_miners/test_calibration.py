"""What the devnet promises to its scorer: skill shows in the cosine of prompt and completion under MiniLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from coremesh.modelfiles import MINILM, resolve_model
from devnet.corpus import Fact, load_facts
from devnet.miners.minds import Mind, mind_of
from devnet.roster import RESIDENTS, TOPICS

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]

ANSWERING = ("specialist", "generalist", "vague", "offtopic", "slow", "flaky")
MINDS: dict[str, Mind] = {one.name: mind_of(one, 0) for one in RESIDENTS if one.character in ANSWERING}
SKILLED = [name for name in MINDS if name.startswith(("specialist", "generalist"))]
VAGUE = ["vague-1", "vague-2"]


@pytest.fixture(scope="module")
def embed() -> Iterator[Embed]:
    """Unit vectors [n, 384] by mean pooling; a text is embedded once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = resolve_model(MINILM)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True).eval()
    known: dict[str, Vectors] = {}

    def embed(texts: Sequence[str]) -> Vectors:
        new = sorted(set(texts) - known.keys(), key=len)
        for start in range(0, len(new), 64):
            batch = tokenizer(new[start : start + 64], padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
            known.update(zip(new[start : start + 64], pooled, strict=True))
        return np.stack([known[text] for text in texts])

    yield embed
    torch.set_num_threads(threads)


def relevance(embed: Embed, questions: Sequence[str], name: str) -> Vectors:
    """Cosine [n] of each question with the answer of a resident."""
    completions = [MINDS[name].answer(question) for question in questions]
    return (embed(questions) * embed(completions)).sum(axis=1)


@pytest.fixture(scope="module")
def training() -> list[str]:
    """Training questions of all topics alike: of every fourth fact one phrasing."""
    return [fact.training[place % 2] for place, fact in enumerate(load_facts()) if not fact.held_out][::4]


def test_every_skilled_miner_is_clearly_above_every_vague_one(embed: Embed, training: list[str]) -> None:
    means = {name: float(relevance(embed, training, name).mean()) for name in MINDS}
    worst = min(means[name] for name in SKILLED)
    assert worst > max(means[name] for name in VAGUE) + 0.15, means
    assert min(means[name] for name in VAGUE) > means["offtopic"] + 0.03, means


def test_a_specialist_beats_everybody_on_the_held_out_questions_of_its_topic(embed: Embed) -> None:
    for topic in TOPICS:
        questions = [fact.question for fact in load_facts() if fact.held_out and fact.topic == topic]
        own = relevance(embed, questions, f"specialist-{topic}")
        best = np.max(
            [relevance(embed, questions, name) for name in MINDS if name != f"specialist-{topic}"], axis=0
        )
        assert float((own > best).mean()) >= 0.95, (topic, dict(zip(questions, own - best, strict=True)))


def test_full_answers_are_relevant_and_do_not_echo(embed: Embed) -> None:
    def echoes(fact: Fact) -> bool:
        return fact.question.rstrip("?").lower() in fact.answer.lower()

    facts = load_facts()[::6]
    cosines = (embed([f.question for f in facts]) * embed([f.answer for f in facts])).sum(axis=1)
    assert float(np.quantile(cosines, 0.05)) > 0.5
    assert float(cosines.max()) < 0.97
    assert not [fact.id for fact in load_facts() if echoes(fact)]


def test_the_example_of_the_documentation_is_answered_best_by_the_specialist(embed: Embed) -> None:
    questions = ["How do vaccines train the immune system?"]
    scores = {name: float(relevance(embed, questions, name)[0]) for name in MINDS}
    assert max(scores, key=scores.__getitem__) == "specialist-medicine"
    assert scores["specialist-medicine"] > 0.6
