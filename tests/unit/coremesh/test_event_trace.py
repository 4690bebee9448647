"""An event carries its trace; events from before there were traces are read as ever, and by readers from then."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coremesh.events import ForwardEvent, decode, encode
from tests.events import make_event

TRACE = "0af7651916cd43dd8448eb211c80319c"


def fields(event: ForwardEvent) -> list[Any]:
    return msgspec.msgpack.decode(encode(event))


def test_a_trace_is_kept_in_sixteen_bytes() -> None:
    plain = make_event({1: 0.5})
    traced = msgspec.structs.replace(plain, trace_=bytes.fromhex(TRACE))
    again = decode(encode(traced))
    assert isinstance(again, ForwardEvent)
    assert (again.trace, plain.trace) == (TRACE, "")
    assert len(encode(traced)) == len(encode(plain)) + 16


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_events_of_before_are_read(missing: int) -> None:
    # Before there were columns, parts were packed as they are.
    event = msgspec.structs.replace(make_event({1: 0.5}), columns_={})
    packed = fields(event)
    packed = packed[: len(packed) - missing]
    assert decode(msgspec.msgpack.encode(packed)) == event


def test_readers_of_before_pass_over_what_is_new() -> None:
    event = make_event({1: 0.5})
    assert decode(msgspec.msgpack.encode([*fields(event), b"of a later version"])) == event
