from __future__ import annotations

import ctypes
import itertools
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coremesh.events import decode, encode
from coremesh.history.page import LEAST_SPACE, PIECE, ROOM, OddReply, Page, has_pages
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
        b"*1\r\n*2\r\n$65\r\n" + b"1" * 65 + b"\r\n*2\r\n$1\r\ne\r\n$1\r\na\r\n",  # no place is so long
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


class Most:
    """Takes events until it has so many, and keeps what it was given."""

    def __init__(self, most: int) -> None:
        self.left, self.taken = most, []

        @ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        def take(context: int, data: int, spans: int, count: int) -> int:
            assert context == self.context
            count = min(count, self.left)
            self.left -= count
            for i in range(count):
                *_, first, end = (ctypes.c_int64 * 4).from_address(spans + 32 * i)
                self.taken.append(ctypes.string_at(data + first, end - first))
            return count

        self._take = take
        self.function = ctypes.cast(take, ctypes.c_void_p).value or 0
        self.context = 12345


@pytest.mark.parametrize("most", [0, 1, 7, 150, 299, 300, 1000])
@pytest.mark.parametrize(
    ("size", "n"), [(10, 300), (3_000, 300), (60_000, 300), (PIECE + 1, 8), (ROOM + 1, 8)]
)
def test_a_taker_is_given_what_comes_and_python_the_rest(most: int, size: int, n: int) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    entries = [(f"{i}-1", b"%06d" % i + bytes(size)) for i in range(n)]
    page, taker = Page(n), Most(most)
    page.taker = taker
    rest: list[bytes] = []
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(reply(entries),))
        sender.start()
        come, done = 0, False
        while not done:
            done = page.receive(ours.fileno(), 30)
            come += page.come
            rest += [entry.event for entry in page.entries(bytes, page.first, page.count)]
            assert page.last == f"{come - 1}-1"
            page.forget()
            assert (page.come, page.first, page.count) == (0, 0, 0)
        sender.join()
    assert come == n
    assert len(taker.taken) == min(most, n)
    assert taker.taken + rest == [event for _, event in entries]


def test_what_a_taker_had_is_known_when_the_connection_ends() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    page, taker = Page(10), Most(10)
    page.taker = taker
    whole = reply([(f"{n}-0", b"%d" % n + bytes(PIECE)) for n in range(4)])
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(whole[: 5 * len(whole) // 8],))
        sender.start()
        with pytest.raises(TimeoutError):
            page.receive(ours.fileno(), 0.5)
        sender.join()
    assert [event[:1] for event in taker.taken] == [b"0", b"1"]
    assert (page.come, page.count, page.last) == (2, 0, "1-0")


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
