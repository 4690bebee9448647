from __future__ import annotations

from pathlib import Path

import pytest

from devnet.chain.saved import BadState, Saved, load, locked, store

STATE = Saved("0x01", 461, 250, True, {3: "0x03"}, {b"\x00\xff": b"value", b"": b""})


def test_a_state_comes_back_and_replaces_the_last(tmp_path: Path):
    path = tmp_path / "new" / "chain.state"
    assert load(path) is None
    store(path, STATE)
    assert load(path) == STATE
    other = Saved("0x01", 462, 500, False, {}, {})
    store(path, other)
    assert load(path) == other
    assert [file.name for file in path.parent.iterdir()] == ["chain.state"]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80", b"\x96\x01\x02\x03\x04\x05\x06"])
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "chain.state"
    path.write_bytes(content)
    with pytest.raises(BadState, match=r"chain\.state is not a readable chain state"):
        load(path)


def test_a_directory_is_refused(tmp_path: Path):
    with pytest.raises(BadState):
        load(tmp_path)


def test_a_state_is_held_by_one_process_at_a_time(tmp_path: Path):
    path = tmp_path / "chain.state"
    with locked(path), pytest.raises(BadState, match="in use by another chain"), locked(path):
        pass
    with locked(path):
        pass
