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


def cut(pieces: list[str], stops: list[str], most: int | None) -> tuple[str, str | None]:
    cutter = tokens.Cutter(stops, most)
    given = "".join(cutter.feed(piece) for piece in pieces) + cutter.end()
    return given, cutter.finish


WORDS = st.text(alphabet="ab. \n", max_size=60)


@given(
    WORDS,
    st.lists(st.text(alphabet="ab. ", min_size=1, max_size=3), max_size=3),
    st.integers(1, 12) | st.none(),
)
def test_a_text_is_cut_alike_whole_and_letter_by_letter(
    text: str, stops: list[str], most: int | None
) -> None:
    assert cut([text], stops, most) == cut(list(text), stops, most)


@given(WORDS, st.lists(st.text(alphabet="ab. ", min_size=1, max_size=3), max_size=3))
def test_nothing_of_a_stop_sequence_is_given_out(text: str, stops: list[str]) -> None:
    given, finish = cut(list(text), stops, None)
    assert finish == "stop"
    assert text.startswith(given)
    assert not any(stop in given for stop in stops)
    if not any(stop in text for stop in stops):
        assert given == text


def test_cutting() -> None:
    assert cut(["One two three."], [], 2) == ("One two", "length")
    assert cut(["One two"], [], 2) == ("One two", "stop")
    assert cut(["One two three."], [" three"], 2) == ("One two", "stop")
    assert cut(["abcd"], ["abcd", "c"], None) == ("ab", "stop")
