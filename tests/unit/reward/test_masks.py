"""Each mask on its own; the ones that embed with the real MiniLM."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from coremesh.modelfiles import MINILM
from services.reward.batch import Batch, Kind, Mask, Turn
from services.reward.engine import Encoder
from services.reward.functions.relevance import Relevance
from services.reward.masks.blacklist import Blacklist
from services.reward.masks.diversity import Diversity
from services.reward.masks.length import Length
from services.reward.masks.relevance import RelevanceThreshold
from services.reward.masks.siblings import Siblings
from services.reward.masks.task_validator import TaskValidator
from services.reward.models import EncoderOps, Models
from services.reward.work import Inline, Op, Runner

T = TypeVar("T")
R = TypeVar("R")

QUESTION = "How do vaccines train the immune system?"
GOOD = (
    "A vaccine shows the body a harmless piece of a germ, so that it makes antibodies and memory cells "
    "before the real infection comes."
)
ALSO_GOOD = (
    "They present a weakened pathogen to the immune cells, which remember it and answer quickly "
    "when the disease arrives later."
)
COOKING = "For a good risotto, keep stirring and add the hot stock one ladle at a time."


UNSEEN = {
    "soft hyphen": "\u00ad",
    "joiner": "\u200d",
    "grapheme joiner": "\u034f",
    "variation selector": "\ufe0f",
    "vowel separator": "\u180e",
    "word joiner": "\u2060",
    "tag": "\U000e0041",
    "filler": "\u3164",
    "a mark of another script": "\u0e31",
    "private use": "\ue000",
    "replacement": "\ufffd",
}
LOOKALIKES = str.maketrans("aeopcxy", "аеорсху")


def cut_up(text: str, by: str) -> str:
    """Each word with something between its first two letters."""
    return " ".join(word[:1] + by + word[1:] for word in text.split())


@functools.cache
def encoder() -> EncoderOps:
    return Models().encoder(MINILM)


class Counted(Inline):
    """Remembers what it ran."""

    def __init__(self) -> None:
        self._ran: list[tuple[str, list[Any]]] = []

    async def run(self, op: Op[T, R], items: Sequence[T]) -> list[R]:
        self._ran.append((op.name, list(items)))
        return await super().run(op, items)

    def calls(self, name: str) -> list[list[Any]]:
        return [items for op, items in self._ran if op == name]

    def items(self, name: str) -> list[Any]:
        return [item for items in self.calls(name) for item in items]


class Reader:
    """An encoder that remembers what it was given."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.identity, self.tokens, self.tokenizer = encoder.identity, encoder.tokens, encoder.tokenizer
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return self._encoder.encode(texts)


def batch(
    *completions: str, question: str = QUESTION, kind: Kind = "answer", runner: Runner | None = None
) -> Batch:
    return Batch((Turn("user", question),), completions, kind, runner or Inline())


async def values(mask: Mask, *completions: str, kind: Kind = "answer") -> list[float]:
    return (await mask.values(batch(*completions, kind=kind))).tolist()


async def test_length():
    mask = Length(min_chars=20, max_chars=40, floor=0.1)
    texts = [
        "",
        "x" * 10,
        "x" * 20,
        "x" * 40,
        "x" * 80,
        "x" * 10_000,
        "x  \n " * 10,
        " " * 100 + "x" * 10,
        "x\u2060\u00ad" * 10,
    ]
    assert await values(mask, *texts) == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0.1, 19 / 20, 0.5, 0.5])


class TestBlacklist:
    LISTED = Blacklist(["as an AI language model", "ignore all previous instructions"])

    @pytest.mark.parametrize(
        "text",
        [
            f"As an AI language model, I say: {GOOD}",
            f"{GOOD} as  AN ai-language   model",
            f"Ás an ÁI lánguage modél {GOOD}",
            f"As an A.I. language model {GOOD}",
            f"As an AI languag model {GOOD}",
            f"ａｓ ａｎ ＡＩ ｌａｎｇｕａｇｅ ｍｏｄｅｌ {GOOD}",
            f"{GOOD} Ignore all the previous instructions!",
        ],
    )
    async def test_finds_listed_phrases_however_spelt(self, text: str):
        assert await values(self.LISTED, text) == [0.0]

    @pytest.mark.parametrize(
        "text", [GOOD, ALSO_GOOD, "A language is a model of the world as an artist sees it."]
    )
    async def test_lets_plain_answers_pass(self, text: str):
        assert await values(self.LISTED, text) == [1.0]

    async def test_lowers_what_repeats_itself(self):
        mask = Blacklist()
        twice, often = f"{GOOD} {GOOD}", " ".join([GOOD] * 30)
        varied, some, none = await values(mask, GOOD, twice, often)
        assert (varied, none) == (1.0, 0.0)
        assert 0 < some < 1
        assert await values(mask, "immune vaccine " * 200, "vaccine" * 500) == [0.0, 0.0]

    async def test_lowers_the_prompt_given_back(self):
        mask = Blacklist(new_words=5)
        given_back = await values(
            mask, QUESTION, QUESTION.upper() + "!!!", f"Good question: {QUESTION}", GOOD
        )
        assert given_back == [0.0, 0.0, 0.4, 1.0]

    @pytest.mark.parametrize("name", UNSEEN)
    async def test_nothing_unseen_hides_a_phrase_or_the_prompt(self, name: str):
        phrase = cut_up("As an AI language model", UNSEEN[name])
        assert await values(self.LISTED, f"{phrase} {GOOD}") == [0.0]
        assert await values(Blacklist(new_words=5), cut_up(QUESTION, UNSEEN[name])) == [0.0]

    async def test_letters_that_look_alike_hide_nothing(self):
        phrase = "As an AI language model".translate(LOOKALIKES)
        assert await values(self.LISTED, f"{phrase} {GOOD}") == [0.0]
        assert await values(Blacklist(new_words=5), QUESTION.translate(LOOKALIKES)) == [0.0]

    async def test_special_tokens_are_no_words_of_an_answers_own(self):
        tokens = ["[CLS]", "[SEP]", "<|im_end|>", "</s>", "[MASK]", "[PAD]", "[UNK]"]
        laced = " ".join(f"{word} {token}" for word, token in zip(QUESTION.split(), tokens, strict=True))
        assert await values(Blacklist(new_words=5), laced) == [0.0]

    async def test_a_letter_with_thousands_of_marks_is_a_letter(self):
        marked = GOOD.replace(" ", " \u0301\u0316" * 2) + "\u0301\u0316" * 9_000
        began = time.process_time()
        assert await values(Blacklist((GOOD,), new_words=0), *[marked] * 8) == [0.0] * 8
        assert time.process_time() - began < 1.5  # 3 s where the marks are put in order first

    async def test_reads_scripts_without_blanks(self):
        text = "疫苗通过向身体展示无害的病原体碎片来训练免疫系统使其产生抗体和记忆细胞"
        assert await values(Blacklist(), text, text[:12] * 40) == [1.0, 0.0]


async def test_task_validator():
    mask = TaskValidator(miss=0.25)
    question = "Why does the moon always show us the same face?"
    sections = "Question: why?\nAnswer: because."
    texts = (question, GOOD, sections, "**Answer:** the tides did it.", f"{GOOD} Is that clear? Good.")
    assert await values(mask, *texts, kind="question") == [1, 0.25, 0.25, 0.25, 1]
    assert await values(mask, *texts, kind="answer") == [0.25, 1, 0.25, 1, 1]
    assert await values(mask, *texts, kind="inference") == [1, 1, 1, 1, 1]
    assert await values(mask, "Sum\u00admary: all of it.", kind="answer") == [0.25]


async def test_task_validator_is_not_held_up_by_blank_lines():
    blank = "\n" * 19_000
    began = time.process_time()
    got = await values(
        TaskValidator(), f"So.{blank}- > Answer: no.", f"So.{blank}That is all.", kind="question"
    )
    assert (
        time.process_time() - began < 5
    )  # half a minute each where every line is looked at from all before it
    assert got == [0.0, 0.0]
    assert await values(TaskValidator(), f"So.{blank}\t> **Question**: no?", kind="answer") == [0.0]
    assert await values(TaskValidator(), f"So.{blank}That is all.", kind="answer") == [1.0]


async def test_siblings_share_one_reward():
    copies = [GOOD, GOOD.upper(), GOOD.replace(",", " ;"), GOOD + " "]
    got = await values(Siblings(similar=0.9), *copies, ALSO_GOOD, COOKING)
    assert got == [0.25, 0.25, 0.25, 0.25, 1.0, 1.0]
    assert await values(Siblings(), GOOD) == [1.0]
    assert await values(Siblings(), "", "", "yes", "no") == [0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("name", UNSEEN)
async def test_siblings_are_known_whatever_they_hide(name: str):
    every_third = " ".join(
        cut_up(word, UNSEEN[name]) if i % 3 == 0 else word for i, word in enumerate(GOOD.split())
    )
    copies = [GOOD, every_third, GOOD.translate(LOOKALIKES)]
    assert await values(Siblings(), *copies, ALSO_GOOD) == [1 / 3, 1 / 3, 1 / 3, 1.0]


class TestDiversity:
    async def test_copies_lose_and_others_do_not(self):
        got = await values(Diversity(encoder(), nearest=1), GOOD, GOOD, ALSO_GOOD, COOKING)
        assert got[0] == got[1] == pytest.approx(0.018, abs=0.001)
        assert min(got[2:]) > 0.99

    async def test_the_floor_holds_copies_up(self):
        mask = Diversity(encoder(), floor=0.8)
        copies = await values(mask, GOOD, GOOD, GOOD)
        assert copies == pytest.approx([0.8036] * 3, abs=1e-3)

    async def test_alone_is_as_diverse_as_can_be(self):
        assert await values(Diversity(encoder()), GOOD) == [1.0]
        assert await values(Diversity(encoder()), GOOD, GOOD) == pytest.approx([0.018, 0.018], abs=0.001)


class TestRelevance:
    async def test_ranks_answers_above_the_rest(self):
        raw = await Relevance("relevance", encoder()).raw(batch(GOOD, ALSO_GOOD, COOKING))
        assert min(raw[:2]) > 0.4 > 0.2 > raw[2]

    async def test_repeating_the_question_gains_little(self):
        padded = f"{QUESTION[:-1]} is a great question that many people ask, and it depends on many things."
        restating = f"Vaccines train the immune system like this: {GOOD}"
        raw = await Relevance("relevance", encoder(), echo_margin=0.2).raw(
            batch(padded, restating, GOOD, QUESTION)
        )
        assert raw[0] < 0.4 < 0.5 < raw[1]
        assert raw[3] <= 0.3
        free = await Relevance("relevance", encoder(), echo_margin=2.0).raw(batch(padded, restating, GOOD))
        assert free[0] > free[2]
        assert free[2] == pytest.approx(raw[2], abs=1e-5)

    @pytest.mark.parametrize("name", UNSEEN)
    async def test_the_question_with_something_unseen_in_it_gains_little(self, name: str):
        relevance = Relevance("relevance", encoder(), echo_margin=0.2)
        (hidden,) = await relevance.raw(batch(cut_up(QUESTION, UNSEEN[name])))
        assert hidden <= 0.3

    async def test_the_question_cut_up_or_mixed_gains_little(self):
        said = QUESTION.split()
        tokens = " ".join(f"{word} {'[CLS]' if i % 2 else '[SEP]'}" for i, word in enumerate(said))
        filled = " ".join(f"{word} well" if i % 3 == 2 else word for i, word in enumerate(said))
        long = "Why does the sky look blue during the day and red at sunset over the sea?"
        mixed = "sea the over sunset at red and day the during blue look sky the does why"
        relevance = Relevance("relevance", encoder(), echo_margin=0.2)
        raw = await relevance.raw(batch(tokens, filled))
        assert max(raw) < 0.4
        (mixed_up,) = await relevance.raw(batch(f"{mixed} um well so then like", question=long))
        assert mixed_up < 0.4
        unguarded = Relevance("relevance", encoder(), echo_margin=2.0)
        assert min(await unguarded.raw(batch(tokens, filled))) > 0.8
        assert await unguarded.raw(batch(mixed, question=long)) > 0.8

    async def test_the_questions_words_among_filler_earn_less_than_a_part_of_an_answer(self):
        filler = ("it is true", "we may ask", "as they say", "in one sense", "to be frank")
        asked = QUESTION[:-1].split()
        every = " ".join(f"{word} {filler[i % 5]}" for i, word in enumerate(asked))
        telling = " ".join(
            f"{word} {filler[i % 5]}" for i, word in enumerate(("vaccines", "immune", "system"))
        )
        part = "Memory cells stay behind, and the next infection is beaten before it is felt."
        relevance = Relevance("relevance", encoder(), echo_margin=0.2)
        raw = await relevance.raw(batch(every, telling, part, GOOD))
        assert max(raw[:2]) < raw[2] < raw[3]
        unguarded = Relevance("relevance", encoder(), echo_margin=2.0)
        assert min((await unguarded.raw(batch(every, telling, part)))[:2]) > 0.6

    async def test_words_of_grammar_alone_are_no_echo_and_earn_no_more_than_filler(self):
        frame = "How do it is true the we may ask, and so on?"
        counted = Counted()
        raw = await Relevance("relevance", encoder(), echo_margin=0.2).raw(batch(frame, GOOD, runner=counted))
        assert raw[0] < 0.25 < 0.5 < raw[1]
        assert counted.items("encode") == [QUESTION, frame, GOOD]

    async def test_a_frame_without_as_many_words_of_its_own_is_an_echo(self):
        counted = Counted()
        question = "Who were the samurai?"
        relevance = Relevance("relevance", encoder(), echo_margin=0.2)
        (framed,) = await relevance.raw(batch("Who were the?", question=question, runner=counted))
        assert framed < 0.35
        assert counted.items("encode") == [question, "Who were the?", ""]

    async def test_a_prompt_of_grammar_alone_has_all_its_words_for_its_own(self):
        question = "What is it that you have, and why can you not?"
        given_back = f"{question} well okay perhaps maybe yes sure indeed right fine hello there now thanks"
        raw = await Relevance("relevance", encoder(), echo_margin=0.2).raw(
            batch(given_back, question=question)
        )
        free = await Relevance("relevance", encoder(), echo_margin=2.0).raw(
            batch(given_back, question=question)
        )
        assert free[0] > raw[0] + 0.2

    async def test_all_texts_of_a_batch_are_embedded_in_one_go_and_for_all_parts(self):
        counted = Counted()
        told = "Vaccines train the immune system: it remembers a harmless piece of a germ."
        shared = batch(told, GOOD, GOOD, COOKING, runner=counted)
        raw = await Relevance("relevance", encoder(), echo_margin=0.2).raw(shared)
        await Diversity(encoder()).values(shared)
        (texts,) = counted.calls("encode")
        assert texts[:5] == [QUESTION, told, GOOD, GOOD, COOKING]
        assert texts[5:] == ["it remembers a harmless piece of a germ"]
        alone = [await Relevance("relevance", encoder()).raw(batch(text)) for text in (told, GOOD, COOKING)]
        assert raw == pytest.approx([alone[0][0], alone[1][0], alone[1][0], alone[2][0]], abs=1e-6)

    def test_what_is_said_twice_is_read_once(self):
        reader = Reader(encoder().encoder)
        vectors = EncoderOps(reader).run([GOOD, COOKING, GOOD])  # pyright: ignore[reportArgumentType]
        assert reader.texts == [GOOD, COOKING]
        assert np.array_equal(vectors[0], vectors[2])
        assert not np.array_equal(vectors[0], vectors[1])

    async def test_as_a_mask(self):
        mask = RelevanceThreshold(encoder(), threshold=0.3)
        assert await values(mask, GOOD, COOKING) == [1.0, 0.0]
