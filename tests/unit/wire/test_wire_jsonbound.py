"""JSON from strangers: what is read, mended and refused."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coremesh.wire.jsonbound import BadJson, decode


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
