from __future__ import annotations

import contextlib
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coremesh.columns import AS_REWARDS, CONSTANT, FLOATS, HALVES, MOSTLY, TWO, pack_column, unpack_column
from coremesh.events import Flag, ForwardEvent, decode, encode, forward_event, pack
from coremesh.types import new_event_id

VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, math.nan, 0.5, math.inf]),
    st.sampled_from([0.0, 1.0, math.nan]),
    st.floats(width=32, allow_nan=False),
    st.floats(width=16, allow_nan=False),
)


def bits(values: np.ndarray) -> bytes:
    return np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4").tobytes()


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 30), st.data())
def test_a_column_comes_back_to_the_bit(n: int, data) -> None:
    kinds = data.draw(
        st.sampled_from([VALUES, st.sampled_from([0.0, 1.0]), st.sampled_from([1.0, math.nan])])
    )
    values = np.array(data.draw(st.lists(kinds, min_size=n, max_size=n)), np.float32)
    rewards = np.array(data.draw(st.lists(VALUES, min_size=n, max_size=n)), np.float32)
    if data.draw(st.booleans()):
        values = np.where(np.isnan(rewards), np.float32(np.nan), values)
    packed = pack_column(values, ~np.isnan(rewards))
    assert len(packed) <= 1 + (n + 7) // 8 + max(4 * n, 4)
    back = unpack_column(packed, rewards)
    assert (back.dtype, bits(back)) == (np.dtype(np.float32), bits(values))


def test_what_says_little_is_little() -> None:
    random = np.random.default_rng(0)
    rewards = random.normal(size=50).astype(np.float32)
    rewards[10:20] = np.nan
    rewarded = ~np.isnan(rewards)

    def packed(values: np.ndarray) -> tuple[int, int]:
        found = pack_column(np.where(rewarded, values, np.nan).astype(np.float32), rewarded)
        assert found[0] & 0xF0 == AS_REWARDS
        return found[0] & 15, len(found)

    assert packed(np.ones(50)) == (CONSTANT, 5)
    assert packed(np.arange(50) % 2) == (TWO, 1 + 8 + 5)
    few = np.ones(50)
    few[[0, 30, 40]] = 0.3, 0.7, 0.1
    assert packed(few) == (MOSTLY, 1 + 4 + 5 + 3 * 4)
    assert packed(np.arange(50) / 64) == (HALVES, 1 + 2 * 40)
    assert packed(rewards) == (FLOATS, 1 + 4 * 40)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 9))
def test_any_other_bytes_are_refused_or_a_column(packed: bytes, n: int) -> None:
    rewards = np.full(n, np.nan, np.float32)
    rewards[::2] = 1.0
    with contextlib.suppress(ValueError):
        assert unpack_column(packed, rewards).shape == (n,)


def event(**more) -> ForwardEvent:
    given = {
        "id": new_event_id(),
        "time_ms": 1,
        "block": 1,
        "kind": "answer",
        "flags": Flag.SCORED,
        "messages": (),
        "uids": [1, 2, 3],
        "hotkeys": ["5A", "5B", "5C"],
        "status": [0, 1, 0],
        "latency_s": [0.1, 0.2, 0.3],
        "rewards": [1.0, math.nan, 0.25],
    }
    return forward_event(**given | more)


def test_an_event_of_the_first_layout_reads_as_it_did() -> None:
    new = event(parts={"relevance": [0.1, math.nan, 0.2]}, propensity=[0.5, 0.5, 0.25])
    old = msgspec.structs.replace(new, columns_={}, parts_={"relevance": pack([0.1, math.nan, 0.2], "<f4")})
    cut = msgspec.msgpack.encode(msgspec.msgpack.decode(encode(old))[:-1])  # without the newest field
    read = decode(cut)
    assert isinstance(read, ForwardEvent)
    assert bits(read.parts["relevance"]) == bits(new.parts["relevance"])
    assert read.sound_parts == new.sound_parts
    assert read.propensity.tolist() == new.propensity.tolist() == [0.5, 0.5, 0.25]


def test_one_propensity_stands_for_all() -> None:
    alike = event(propensity=[0.3] * 3)
    assert len(alike.propensity_) == 2
    assert alike.propensity.tolist() == [np.float16(0.3)] * 3
    assert event().propensity.size == 0
    assert event(propensity=[0.3, 0.3, math.nan]).propensity.size == 3


def test_a_broken_column_is_left_out_of_what_is_read() -> None:
    broken = msgspec.structs.replace(event(parts={"a": [1.0, 2.0, 3.0]}), parts_={"b": b"123"})
    broken.columns_["c"] = b"\x77"
    assert list(broken.parts) == list(broken.sound_parts) == ["a"]
    assert msgspec.structs.replace(broken, rewards_=b"12345").parts == {}


@pytest.mark.parametrize(
    "column",
    ["uids_", "hotkeys_", "status_", "latency_", "rewards_", "gating_", "propensity_"],
)
@pytest.mark.parametrize("packed", [b"12345", b"1" * 96])
def test_an_event_with_a_column_of_another_length_is_not_sound(column: str, packed: bytes) -> None:
    whole = event(gating=[0.1, 0.2, 0.3], propensity=[0.5, 0.5, 0.25])
    assert whole.sound
    assert event().sound
    assert event(propensity=[0.3] * 3).sound
    assert not msgspec.structs.replace(whole, **{column: packed}).sound
