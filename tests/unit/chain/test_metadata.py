from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devnet.chain.codec import octets, runtime_codec
from devnet.chain.metadata import SPEC_VERSION, compact, read_compact


@pytest.mark.parametrize("slot_ms", [250, 12_000, -(10**15)])
def test_the_slot_duration_is_what_was_asked_for(slot_ms: int):
    assert runtime_codec(slot_ms, SPEC_VERSION).runtime.constant("Aura", "SlotDuration") == slot_ms


def test_the_epoch_consensus_item_is_there_and_nothing_else_moved():
    codec = runtime_codec(250, SPEC_VERSION)
    assert codec.decode_item("SubtensorModule", "SubnetEpochConsensus", None) == "Yuma"
    assert codec.decode_item("SubtensorModule", "SubnetEpochConsensus", b"\x01") == "Null"
    assert codec.key("SubtensorModule", "SubnetEpochConsensus", 1).endswith(b"\x01\x00")
    # The first and the last pallet still decode: the registry's ids have not shifted.
    assert codec.decode_item("System", "Number", b"\x05\x00\x00\x00") == 5
    assert codec.error("SubtensorModule", "SettingWeightsTooFast") == {
        "Module": {"index": 7, "error": "0x1d000000"}
    }
    assert codec.runtime.is_v15


@given(st.integers(0, 2**30 - 1))
def test_compacts_come_back(value: int):
    encoded = compact(value)
    assert read_compact(b"\xff" + encoded + b"\xff", 1) == (value, 1 + len(encoded))


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x00\x00", b"\x03\x00\x00\x00\x40"])
def test_a_truncated_or_oversized_compact_is_refused(data: bytes):
    with pytest.raises(ValueError):
        read_compact(data, 0)


def test_blank_values_encode():
    codec = runtime_codec(250, SPEC_VERSION)
    for name in ("SubnetInfoRuntimeApi_get_metagraph", "SubnetInfoRuntimeApi_get_dynamic_info"):
        output = codec.apis[name]["output"]
        record = codec.fields(output)
        decoded = codec.decode(output, codec.encode(output, record))
        assert set(decoded) == set(record)
        assert decoded["tempo"] == 0


@pytest.mark.parametrize(
    ("decoded", "raw"), [("hi", b"hi"), ("0xff00", b"\xff\x00"), ([1, 2], b"\x01\x02"), (b"x", b"x")]
)
def test_octets_undo_the_decoder(decoded: object, raw: bytes):
    assert octets(decoded) == raw
