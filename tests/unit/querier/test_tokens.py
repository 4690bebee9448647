"""Approximate tokens: counted the same way everywhere, and nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.querier import tokens


@given(st.text(max_size=300), st.integers(1, 50))
def test_the_first_tokens_are_a_prefix_of_so_many(text: str, most: int) -> None:
    cut = tokens.first(text, most)
    assert text.startswith(cut)
    assert tokens.count(cut) == min(most, tokens.count(text))


@given(st.text(max_size=300))
def test_pieces_joined_give_the_text(text: str) -> None:
    assert "".join(tokens.pieces(text)) == text


def test_counting() -> None:
    assert tokens.count("Hello, world!") == 4
    assert tokens.count("extraordinarily") == 3
    assert tokens.count("東京") == 2
    assert tokens.count("") == 0


def test_until_cuts_at_the_first_stop() -> None:
    assert tokens.until("a b c", ["c", "b"]) == "a "
    assert tokens.until("a b c", ["x", ""]) == "a b c"
