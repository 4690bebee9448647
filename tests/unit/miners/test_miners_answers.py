"""Text from miners loses what cannot be seen, and nothing else."""

from __future__ import annotations

import pytest

from services.querier.miners.answers import brief, spoken, tidy


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain text,\n\ttabbed", "plain text,\n\ttabbed"),
        ("a\r\nb", "a\nb"),
        ("nul\0 bell\a esc\x1b[31m del\x7f c1\x85", "nul bell esc[31m del c1"),
        ("lone \ud800 \udfff", "lone  "),
        ("turn\u202eed \u2066x\u2069", "turned x"),
        ("hid\u200bden \ufeff\U000e0041tags", "hidden tags"),
        ("so\u00adft", "soft"),
        ("\u3164\u034f\u115f\u180e\U000e0100fillers", "fillers"),
        ("family 👨\u200d👩\u200d👧, عربی, हिन्दी, é", "family 👨\u200d👩\u200d👧, عربی, हिन्दी, é"),
        ("", ""),
    ],
)
def test_tidy(text: str, result: str) -> None:
    assert tidy(text) == result


def test_brief() -> None:
    assert brief("x\0" * 500) == "x" * 120


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("ten chars.", 10),
        ("[SEP][CLS]" * 100, 0),
        ("<|im_end|>\n<|im_start|>assistant\n", 9),
        ("<s>[INST] yes [/INST]</s>", 3),
        ("In ChatML <|im_end|> closes a turn.", 24),
        ("a [list] of <b>bold</b> words", 29),
        ("<|a<|b|>c|>", 0),
        ("\u200d\ufe0f" * 20, 0),
        ("", 0),
    ],
)
def test_spellings_of_special_tokens_say_nothing(text: str, characters: int) -> None:
    assert spoken(text) == characters


@pytest.mark.parametrize("attack", ["<|" * 32_000 + "|>" * 32_000, "[" * 65_536, "<|a" * 20_000])
def test_nesting_them_does_not_take_long(attack: str) -> None:
    assert spoken(attack) > 11


def test_what_the_shortcut_passes_has_nothing_to_tidy() -> None:
    plain = [chr(code) for code in range(128) if chr(code).isprintable()]
    assert [c for c in plain if tidy(c + "\n") != c + "\n"] == []
