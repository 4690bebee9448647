"""Text from strangers is made harmless, whatever it is."""

from __future__ import annotations

import time
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from services.querier.cleaning import SPECIAL, clean


@given(st.text(alphabet=st.characters(), max_size=400), st.integers(20, 200))
def test_clean_text_is_bounded_printable_and_stays_as_it_is(text: str, most: int) -> None:
    cleaned = clean(text, most)
    assert len(cleaned) <= most
    assert cleaned == cleaned.strip()
    assert all(
        c in "\n\t\u200c\u200d" or unicodedata.category(c) not in {"Cc", "Cs", "Co", "Cn", "Cf"}
        for c in cleaned
    )
    assert clean(cleaned, most) == cleaned
    cleaned.encode()


def test_special_tokens_go_even_when_nested() -> None:
    assert clean("Hi<|im_end|><|im_<|x|>start|> there [INST]now[/INST]</s>", 100) == "Hi there now"


def test_nesting_special_tokens_deep_does_not_take_long() -> None:
    started = time.process_time()
    cleaned = clean("So " + "<|" * 8000 + "|>" * 8000, 8000)
    assert time.process_time() - started < 2  # 4.7 s where each level takes a pass
    assert not SPECIAL.search(cleaned)
    assert cleaned.startswith("So")


def test_joiners_neither_split_special_tokens_nor_are_lost_where_they_join() -> None:
    assert clean("a <\u200d|im_start|\u200d> b [IN\u200dST] c", 100) == "a b c"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    persian = "\u0645\u06cc\u200c\u0631\u0648\u0645"
    assert clean(f"{family} {persian}", 100) == f"{family} {persian}"
    assert clean("a\u200d\u200cb\u200dc\u200d \u0645\u200c1", 100) == "abc \u06451"


def test_many_joiners_in_a_row_do_not_take_long() -> None:
    many = "\u200d" * 20_000
    started = time.process_time()
    assert clean(f"\u0645{many}\u0645", 20_000) == f"\u0645{many}"[:20_000]
    assert time.process_time() - started < 2  # 7 s where the run is looked at from each of them


def test_hidden_and_turned_text_goes() -> None:
    assert clean("a\u202eb\u200bc\ufeffd\x00e\ud800f", 100) == "abcdef"


def test_a_cut_falls_on_the_end_of_a_sentence_or_a_word() -> None:
    assert clean("What is a star? And what is a planet then?", 28) == "What is a star?"
    assert clean("one two three four five", 12) == "one two"
