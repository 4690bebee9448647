from __future__ import annotations

import itertools
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coremesh.events import decode, encode
from coremesh.history.page import LEAST_SPACE, ROOM, OddReply, Page, has_pages
from coremesh.types import ORIGIN
from tests.events import make_event
from tests.pages import feed, fill, reply

pytestmark = pytest.mark.skipif(not has_pages(), reason="what frames replies is not compiled")

ENTRIES = st.lists(
    st.tuples(st.integers(0, 2**63).map(lambda n: f"{n}-{n % 7}"), st.binary(max_size=300)), max_size=12
)


@settings(max_examples=200, deadline=None)
@given(ENTRIES, st.lists(st.integers(0, 4000), max_size=6))
def test_a_reply_in_any_pieces_is_framed_whole(entries: list[tuple[str, bytes]], cuts: list[int]) -> None:
    whole = reply(entries)
    ends = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    page = Page(12)
    assert feed(page, [whole[a:b] for a, b in itertools.pairwise(ends)])
    assert page.count == len(entries)
    found = page.entries(lambda packed: packed, 0, page.count)
    assert [(entry.stream_id, entry.event) for entry in found] == entries
    assert page.last == (entries[-1][0] if entries else ORIGIN)


def test_one_byte_at_a_time() -> None:
    whole = reply([("1-0", b"\r\n*$"), ("2-0", b"")])
    page = Page(2)
    assert feed(page, [whole[i : i + 1] for i in range(len(whole))])
    assert page.count == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"+OK\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*3\r\n",  # more than the page takes
        b"*99999999999\r\n",
        b"*1\r\n*3\r\n",
        b"*1\r\n*2\r\n$3\r\n1-0\r\n*4\r\n",  # two fields
        b"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nx\r\n$1\r\na\r\n",
        b"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\ne\r\n$1\r\nab\r\n",
        b"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\ne\r\n$-1\r\n",
        b"*0\r\n*0\r\n",  # the answer to something else behind it
    ],
)
def test_any_other_answer_is_odd(answer: bytes) -> None:
    with pytest.raises(OddReply):
        feed(Page(2), [answer, b"x"])


@settings(max_examples=100, deadline=None)
@given(ENTRIES, st.data())
def test_broken_replies_are_odd_or_frame_what_lies_in_them(entries: list[tuple[str, bytes]], data) -> None:
    whole = bytearray(reply(entries))
    for _ in range(3):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    page = Page(12)
    try:
        feed(page, [bytes(whole)])
    except OddReply:
        return
    for a, b, c, d in page.spans[: page.count].tolist():
        assert 0 < a <= b < c <= d < len(whole)


def test_a_reply_is_received_from_a_socket_in_time_or_not_at_all() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.05)
    page = Page(3)
    large = [("1-0", bytes(3 * ROOM)), ("2-0", b"end")]
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(reply(large),))
        sender.start()
        page.receive(ours.fileno(), 30)
        sender.join()
        assert [entry.event for entry in page.entries(bytes, 0, page.count)] == [b for _, b in large]
        page.clear()
        theirs.sendall(reply(large)[:100])
        with pytest.raises(TimeoutError):
            page.receive(ours.fileno(), 0.02)
        theirs.sendall(b"x" * 8)
        theirs.close()
        with pytest.raises(ConnectionError, match="closed"):
            page.receive(ours.fileno(), 30)
    page.clear()
    with pytest.raises(ConnectionError):
        page.receive(ours.fileno(), 30)


def test_a_page_grows_and_is_filled_again() -> None:
    page = Page(3)
    large = [("1-0", bytes(ROOM)), ("2-0", bytes(3 * ROOM)), ("3-0", b"end")]
    fill(page, large)
    assert [entry.event for entry in page.entries(bytes, 0, 3)] == [packed for _, packed in large]
    assert len(page.space()) >= LEAST_SPACE
    event = make_event({1: 0.5})
    fill(page, [("4-0", encode(event))])
    assert [entry.event for entry in page.entries(decode, 0, page.count)] == [event]
    page.clear()
    assert page.count == 0
