"""JSON from strangers: decoded to a given shape, bounded in depth and in structure."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
import numpy as np

T = TypeVar("T")

MAX_DEPTH = 32
MAX_BRACKETS = 20_000
"""Braces and brackets, opening and closing, outside strings."""
MAX_MENDED = 4096
"""Surrogate escapes in a text that has a lone one."""

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)",
    re.DOTALL,
)
_QUOTE = 2
_STRUCTURAL = np.zeros(256, dtype=np.int8)
"""What a byte does to the depth: 1 or -1; _QUOTE for the sign that begins and ends strings; else 0."""
_STRUCTURAL[list(b"[{")] = 1
_STRUCTURAL[list(b"]}")] = -1
_STRUCTURAL[list(b'"')] = _QUOTE
_LONE = 6  # bytes of one \uXXXX escape


class BadJson(ValueError):
    """Not JSON, not of the shape asked for, or over a bound."""


def _check_structure(body: bytes) -> None:
    """Raise BadJson when ``body`` is nested deeper than MAX_DEPTH or has too many brackets.

    In whole-array steps: what looks at one character or one match at a time takes a third of a second for a megabyte
    that is made to be slow, on the event loop.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    if b"\\" in body:
        # Backslashes pair up from the left, so what is left of a run with a quote after it escapes the quote.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = _STRUCTURAL[np.frombuffer(body, dtype=np.uint8)]
    steps = steps[steps != 0]
    outside = np.cumsum(steps == _QUOTE, dtype=np.int32) % 2 == 0
    steps = steps[outside & (steps != _QUOTE)]
    if steps.size > MAX_BRACKETS:
        raise BadJson(f"more than {MAX_BRACKETS} brackets")
    if steps.size and int(np.cumsum(steps, dtype=np.int32).max()) > MAX_DEPTH:
        raise BadJson(f"nested deeper than {MAX_DEPTH}")


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
        if body.count(b"\\ud") + body.count(b"\\uD") > MAX_MENDED:
            raise BadJson("too many broken surrogates") from None
    try:
        return decoder.decode(_ESCAPE.sub(_mend, body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadJson(type(error).__name__) from None
