"""Text from strangers, made fit to be sent on."""

from __future__ import annotations

import re
import unicodedata

# Control, surrogate, private-use and unassigned characters carry no meaning for people; format
# characters (Cf) hide text and turn its direction around. Zero-width joiners are kept: emoji and scripts need them.
_DROPPED = {"Cc", "Cs", "Co", "Cn", "Cf"}
_KEPT = {"\n", "\t", "\u200c", "\u200d"}
_JOINERS = re.compile("([\\x00-\\x7f]?)[\u200c\u200d]+(?=([\\x00-\\x7f]?))")
"""Joiners beside an ASCII character join nothing: they split the spelling of a special token, for a later reader that
drops them to put together again. Found as whole runs: looked at from each of its joiners, a long one takes seconds."""
SPECIAL = re.compile(
    r"<\|[^<>|]{0,64}\|>|</?s>|\[/?(?:INST|SEP|CLS|PAD|MASK|UNK)\]|<</?SYS>>|<(?:pad|unk|bos|eos)>"
)
"""Spellings of special tokens in common tokenizers: text that closes a chat template is no question."""
_ROUNDS = 8
"""Spellings within spellings are taken out so many times; who nests them deeper loses all that they are made of."""
_MARKS = re.compile(r"[<>|\[\]]")
_SPACES = re.compile(r"[ \t]+")
_BREAKS = re.compile(r"\n{3,}")


def clean(text: str, max_chars: int) -> str:
    """``text`` in NFC without control, invisible or special-token text, at most ``max_chars``, stripped.

    A cut falls on the end of a sentence where there is one in the last half, else on a space.
    """
    text = unicodedata.normalize("NFC", text[: 4 * max_chars].replace("\r\n", "\n").replace("\r", "\n"))
    text = "".join(c for c in text if c in _KEPT or unicodedata.category(c) not in _DROPPED)
    text = _JOINERS.sub(_needed, text)
    # Removing one token can join its neighbours into another.
    for _ in range(_ROUNDS):
        fewer = SPECIAL.sub(" ", text)
        if fewer == text:
            break
        text = fewer
    else:
        text = _MARKS.sub(" ", text)
    text = _BREAKS.sub("\n\n", _SPACES.sub(" ", text)).strip()
    if len(text) <= max_chars:
        return text
    cut = text[:max_chars]
    for mark in ("?", ".", "!", " "):
        at = cut.rfind(mark)
        if at >= max_chars // 2:
            return cut[: at + 1].strip()
    return cut.strip()


def _needed(joiners: re.Match[str]) -> str:
    before, after = joiners.groups()
    return before if before or after else joiners.group()
