"""Text from miners loses what cannot be seen, and nothing else."""

from __future__ import annotations

import pytest

from services.querier.miners.answers import brief, tidy


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain text,\n\ttabbed", "plain text,\n\ttabbed"),
        ("a\r\nb", "a\nb"),
        ("nul\0 bell\a esc\x1b[31m del\x7f c1\x85", "nul bell esc[31m del c1"),
        ("lone \ud800 \udfff", "lone  "),
        ("turn\u202eed \u2066x\u2069", "turned x"),
        ("hid\u200bden \ufeff\U000e0041tags", "hidden tags"),
        ("family 👨\u200d👩\u200d👧, عربی, हिन्दी, é", "family 👨\u200d👩\u200d👧, عربی, हिन्दी, é"),
        ("", ""),
    ],
)
def test_tidy(text: str, result: str) -> None:
    assert tidy(text) == result


def test_brief() -> None:
    assert brief("x\0" * 500) == "x" * 120
