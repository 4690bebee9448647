from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coremesh.events import Change, decode, encode, forward_event
from coremesh.metagraph import Metagraph, Neuron, decode_metagraph, difference, encode_metagraph
from coremesh.types import event_id_ms, hotkey_digest, hotkey_digests, new_event_id, stream_key
from tests.events import hotkey, make_event


def test_event_ids_sort_by_time_and_tell_it() -> None:
    before = time.time_ns() // 1_000_000
    one = new_event_id()
    assert before <= event_id_ms(one) <= time.time_ns() // 1_000_000
    assert new_event_id(1000) < new_event_id(1001)
    assert len({new_event_id(5) for _ in range(1000)}) == 1000


@given(st.integers(0, 2**48 - 1))
def test_an_event_id_keeps_its_milliseconds(ms: int) -> None:
    assert event_id_ms(new_event_id(ms)) == ms


@pytest.mark.parametrize("wrong", ["", "x" * 25, "u" * 26, "../../../../etc/passwd0000"])
def test_what_is_no_event_id_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        event_id_ms(wrong)


def test_stream_ids_compare_as_numbers() -> None:
    assert stream_key("9-2") < stream_key("9-10") < stream_key("10-0")


def test_digests() -> None:
    assert hotkey_digests(["a", "", "b"]).tolist() == [hotkey_digest("a"), 0, hotkey_digest("b")]


@given(
    st.dictionaries(
        st.integers(0, 65535), st.none() | st.floats(width=32, allow_nan=False), min_size=1, max_size=60
    )
)
def test_an_event_keeps_its_columns(rewards: dict[int, float | None]) -> None:
    event = make_event(rewards)
    back = decode(encode(event))
    assert back == event
    assert back.uids.tolist() == list(rewards)
    assert back.hotkeys.tolist() == [hotkey_digest(hotkey(uid)) for uid in rewards]
    assert [None if r != r else r for r in back.rewards.tolist()] == list(rewards.values())
    assert back.status.tolist() == [1 if r is None else 0 for r in rewards.values()]


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="rewards has 1 values for 2 uids"):
        forward_event(
            id=new_event_id(),
            time_ms=1,
            block=1,
            kind="answer",
            flags=make_event({1: 0.0}).flags,  # type: ignore[arg-type]
            messages=(),
            uids=[1, 2],
            hotkeys=["a", "b"],
            status=[0, 0],
            latency_s=[0, 0],
            rewards=[1.0],
        )


def neuron(uid: int, name: str | None = None, **more: object) -> Neuron:
    return Neuron(uid=uid, hotkey=name or hotkey(uid), coldkey="c", **more)  # type: ignore[arg-type]


def graph(*neurons: Neuron, block: int = 5) -> Metagraph:
    return Metagraph(netuid=1, block=block, time_ms=1, neurons=neurons, hotkey=hotkey(0))


def test_the_difference_of_two_snapshots() -> None:
    old = graph(neuron(0, permit=True, stake=5000.0), neuron(1), neuron(2))
    new = graph(neuron(0, permit=True, stake=5000.0), neuron(1, "5Other"), block=9)
    event = difference(old, new)
    assert event is not None
    assert event.changes == (Change(1, hotkey(1), "5Other"), Change(2, hotkey(2), ""))
    assert (event.size, event.block, event.excluded.tolist(), event.permits.tolist()) == (2, 9, [0], [0])
    assert decode(encode(event)) == event


def test_a_validator_that_loses_its_stake_makes_an_event() -> None:
    old = graph(neuron(0, permit=True, stake=5000.0), neuron(1))
    new = graph(neuron(0, permit=True, stake=5.0), neuron(1))
    event = difference(old, new)
    assert event is not None
    assert (event.changes, event.excluded.tolist(), event.permits.tolist()) == ((), [], [0])
    assert difference(new, new) is None


def test_who_can_be_asked() -> None:
    metagraph = graph(
        neuron(0, ip="127.0.0.2", port=1),
        neuron(1, ip="127.0.0.2", port=1),
        neuron(2, ip="0.0.0.0", port=1),
        neuron(3, ip="127.0.0.2", port=0),
        neuron(4, ip="127.0.0.2", port=1, permit=True, stake=2000.0),
        neuron(5, ip="127.0.0.2", port=1, permit=True, stake=5.0),
    )
    assert [n.uid for n in metagraph.available()] == [1, 5]
    assert [n.uid for n in metagraph.available(hotkey(5))] == [1]
    assert metagraph.uid_of(hotkey(4)) == 4
    assert metagraph.uid_of("nobody") is None
    assert decode_metagraph(encode_metagraph(metagraph)) == metagraph
