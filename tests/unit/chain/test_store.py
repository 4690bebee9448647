from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devnet.chain.store import Store

A, B, C = b"p:a", b"p:b", b"q:c"


def test_a_block_shows_the_values_it_ended_with():
    store = Store()
    for number, value in ((1, b"one"), (2, b"two"), (4, None), (5, b"five")):
        store.begin_block(number)
        store.set(A, value)
    assert [store.get(A, block) for block in range(6)] == [None, b"one", b"two", b"two", None, b"five"]
    assert store.get(A) == b"five"


def test_keys_are_listed_as_they_were_and_in_pages():
    store = Store()
    store.begin_block(1)
    for key in (B, A, C):
        store.set(key, b"1")
    store.begin_block(2)
    store.set(A, None)
    assert list(store.keys(b"p:")) == [B]
    assert list(store.keys(b"p:", block=1)) == [A, B]
    assert list(store.keys(b"p:", after=A, block=1)) == [B]
    assert list(store.keys(b"p:", after=b"p:", block=1)) == [A, B]
    assert list(store.keys(b"")) == [B, C]


def test_a_transaction_rolls_back_in_reverse():
    store = Store({A: b"0"})
    store.begin_block(1)
    store.begin()
    store.set(A, b"1")
    store.set(A, None)
    store.set(B, b"2")
    store.rollback()
    assert (store.get(A), store.get(B), list(store.keys(b""))) == (b"0", None, [A])


def test_an_idle_key_costs_nothing_and_a_busy_one_is_bounded():
    store = Store({B: b"idle"}, window=8)
    for number in range(1, 1_000):
        store.begin_block(number)
        store.set(A, str(number).encode())
        store.set(C, b"x" if number % 2 else None)
    assert store.superseded <= 2 * 8
    assert store.get(B, 999) == b"idle"
    assert store.get(A, 995) == b"995"


def test_a_deleted_key_is_forgotten_once_the_window_has_passed():
    store = Store({A: b"0"}, window=4)
    store.begin_block(1)
    store.set(A, None)
    assert list(store.keys(b"", block=0)) == [A]
    for number in range(2, 12):
        store.begin_block(number)
    assert (list(store.keys(b"", block=7)), store.superseded, len(store)) == ([], 0, 0)


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([A, B, C]), st.sampled_from([None, b"1", b"2"])), max_size=4),
        max_size=12,
    )
)
def test_every_block_in_the_window_reads_like_a_copy_taken_then(
    blocks: list[list[tuple[bytes, bytes | None]]],
):
    store = Store(window=100)
    truth: dict[bytes, bytes] = {}
    copies: list[dict[bytes, bytes]] = [{}]
    for number, writes in enumerate(blocks, start=1):
        store.begin_block(number)
        for key, value in writes:
            store.set(key, value)
            truth.pop(key, None)
            if value is not None:
                truth[key] = value
        copies.append(dict(truth))
    for number, copy in enumerate(copies):
        assert {key: store.get(key, number) for key in store.keys(b"", block=number)} == copy
        assert list(store.keys(b"", block=number)) == sorted(copy)
