"""Server-sent events are the same however they are cut into chunks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coremesh.wire.sse import SseOverflow, SseParser

STREAM = b'data: {"a":1}\n\n: comment\nevent: x\ndata:two\r\ndata: lines\r\n\r\nid: 7\n\ndata: [DONE]\n\ndata: open'
EVENTS = [b'{"a":1}', b"two\nlines", b"[DONE]", b"open"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_chunks_do_not_matter(cuts: list[int]) -> None:
    parser = SseParser()
    events: list[bytes] = []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        events += parser.feed(STREAM[start:end])
    assert events + parser.finish() == EVENTS


@pytest.mark.parametrize("unit", [b"x", b"data: x\n", b"data:\n"])
def test_an_event_without_end_is_refused(unit: bytes) -> None:
    parser = SseParser(max_event_bytes=1000)

    def feed_on() -> None:
        for _ in range(2000):
            parser.feed(unit)

    with pytest.raises(SseOverflow):
        feed_on()


def test_small_events_may_go_on() -> None:
    parser = SseParser(max_event_bytes=100)
    assert sum(len(parser.feed(b"data: x\n\n: ping\n\n")) for _ in range(1000)) == 1000
