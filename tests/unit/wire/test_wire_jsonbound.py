"""JSON from strangers: what is read, mended and refused."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coremesh.wire.jsonbound import MAX_BRACKETS, MAX_DEPTH, MAX_MENDED, BadJson, decode


class Answer(msgspec.Struct):
    completion: str | None = None


DECODER = msgspec.json.Decoder(Answer)


@pytest.mark.parametrize(
    ("body", "completion"),
    [
        (b'{"completion": "hi"}', "hi"),
        (b"{}", None),
        (b'{"completion": null, "more": {"a": [1, 2, {"b": true}]}}', None),
        (rb'{"completion": "cut \ud83d off"}', "cut \ufffd off"),
        (rb'{"completion": "\uDE00\ud83d"}', "\ufffd\ufffd"),
        (rb'{"completion": "\ud83d\ude00 whole, \ud83d not"}', "😀 whole, \ufffd not"),
        (rb'{"completion": "a path \\ud800 stays, \ud800 goes"}', "a path \\ud800 stays, \ufffd goes"),
        (b'{"completion": "' + b"[{" * 5000 + b'"}', "[{" * 5000),
        (b'{"completion": "\\"[[[' + b"[" * 100 + b'"}', '"[[[' + "[" * 100),
    ],
)
def test_read(body: bytes, completion: str | None) -> None:
    assert decode(body, DECODER) == Answer(completion)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"completion": 7}',
        b'{"completion": ["x"]}',
        b'{"completion": "x", "n": NaN}',
        b'{"completion": "x", "n": Infinity}',
        b'{"completion": "x", "n": -Infinity}',
        b'{"completion": "\xff"}',
        b'{"completion": "\xed\xa0\x80"}',
        b'{"completion": "x"} trailing',
        b'{"completion": "x"',
        rb'{"completion": "\ud8"}',
        b'{"deep": ' + b"[" * 33 + b"]" * 33 + b"}",
        b'{"deep": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b"[" * 1_000_000,
        b'{"wide": [' + b"[]," * 200_000 + b"0]}",
    ],
)
def test_refused(body: bytes) -> None:
    with pytest.raises(BadJson):
        decode(body, DECODER)


@given(st.text())
def test_any_text_survives_the_way(text: str) -> None:
    raw = json.dumps({"completion": text}).encode()
    assert decode(raw, DECODER).completion == text


@pytest.mark.timeout(30)  # quadratic work would take hours
@pytest.mark.parametrize("unit", [b'"', b"\\", b'"\\', b"{", b'{"', b"\\ud800", b'"[{'])
def test_a_hostile_megabyte_is_judged_in_linear_time(unit: bytes) -> None:
    body = unit * (1_000_000 // len(unit))
    with pytest.raises(BadJson):
        decode(body, DECODER)


TEXTS = st.text('[]{}"\\,:a\n', max_size=12)
VALUES = st.recursive(
    TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.integers(0, 40), TEXTS)
def test_depth_is_counted_outside_strings_alone(value: object, wraps: int, text: str) -> None:
    for _ in range(wraps):
        value = [value]
    # So many brackets in a string that the depth is always looked at.
    body = json.dumps({"first": text, "deep": value, "noise": "[" * 100}).encode()
    if depth_of(value) + 1 > MAX_DEPTH:
        with pytest.raises(BadJson, match="nested deeper"):
            decode(body, DECODER)
    else:
        assert decode(body, DECODER) == Answer(None)


def test_brackets_are_counted_outside_strings_alone() -> None:
    most = MAX_BRACKETS // 2 - 2  # of its own two pairs
    body = b'{"text": "' + b"[]" * MAX_BRACKETS + b'", "list": [' + b"[]," * (most - 1) + b"[]]}"
    assert decode(body, DECODER) == Answer(None)
    with pytest.raises(BadJson, match="more than"):
        decode(body.replace(b"[]]}", b"[],[]]}"), DECODER)


def test_many_broken_surrogates_are_not_mended() -> None:
    body = b'{"completion": "' + b"\\ud800" * MAX_MENDED + b'"}'
    assert decode(body, DECODER) == Answer("\ufffd" * MAX_MENDED)
    with pytest.raises(BadJson, match="broken surrogates"):
        decode(body.replace(b'"}', b'\\ud800"}'), DECODER)
