"""JSON from strangers: decoded to a given shape, bounded in depth and in structure."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")

MAX_DEPTH = 32
MAX_BRACKETS = 20_000
"""Braces and brackets, opening and closing, outside strings."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)",
    re.DOTALL,
)
_LONE = 6  # bytes of one \uXXXX escape


class BadJson(ValueError):
    """Not JSON, not of the shape asked for, or over a bound."""


def _check_structure(body: bytes) -> None:
    """Raise BadJson when ``body`` is nested deeper than MAX_DEPTH or has too many brackets."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for count, match in enumerate(_BRACKET.finditer(_STRING.sub(b"", body)), 1):
        depth += 1 if match[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            raise BadJson(f"nested deeper than {MAX_DEPTH}")
        if count > MAX_BRACKETS:
            raise BadJson(f"more than {MAX_BRACKETS} brackets")


def _mend(match: re.Match[bytes]) -> bytes:
    escape = match[0]
    return rb"\ufffd" if len(escape) == _LONE else escape


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """``body`` as the decoder's type; fields it does not know are skipped, never built.

    NaN, infinities and invalid UTF-8 are refused; a lone surrogate escape (half an emoji cut off by the miner)
    becomes U+FFFD. Raises BadJson.
    """
    _check_structure(body)
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        lowered_escape = b"\\ud" in body or b"\\uD" in body
        if not lowered_escape or isinstance(error, msgspec.ValidationError):
            raise BadJson(type(error).__name__) from None
    try:
        return decoder.decode(_ESCAPE.sub(_mend, body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadJson(type(error).__name__) from None
