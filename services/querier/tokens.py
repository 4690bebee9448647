"""Counting tokens without a tokenizer: miners run models of their own, so any count is an approximation."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Up to six letters or digits in a row, or one other sign: near what byte-pair encodings make of English.
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w{1,6}|[^\w\s]")


def count(text: str) -> int:
    """About how many tokens ``text`` has."""
    return sum(1 for _ in _TOKEN.finditer(text))


def first(text: str, tokens: int) -> str:
    """``text`` up to the end of its first ``tokens`` tokens."""
    for n, match in enumerate(_TOKEN.finditer(text), start=1):
        if n == tokens:
            return text[: match.end()]
    return text


def until(text: str, stops: Sequence[str]) -> str:
    """``text`` before the first occurrence of any of ``stops``."""
    cuts = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(cuts)] if cuts else text


def pieces(text: str) -> list[str]:
    """``text`` in pieces of a word each, with the white space that follows; joined they give it again."""
    return re.findall(r"\s*\S+\s*", text) or ([text] if text else [])
