"""What the node's pool takes and refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from devnet.chain.extrinsics import InvalidTransaction, birth, parse
from devnet.chain.pool import MAX_NONCE_GAP
from tests.unit.chain.conftest import Bench

Make = Callable[..., Bench]
REMARK: dict[str, Any] = {"module": "System", "function": "remark", "remark": b"hello"}


def _remark(bench: Bench, **changes: Any) -> bytes:
    return bench.signed(bench.key("owner", "coldkey"), **REMARK, **changes)


def test_a_signed_extrinsic_is_taken_apart(make_bench: Make):
    bench = make_bench()
    extrinsic = parse(_remark(bench, nonce=300), bench.chain.codec)
    assert (extrinsic.signer, extrinsic.nonce, extrinsic.tip, extrinsic.era) == (
        bench.key("owner", "coldkey").ss58_address,
        300,
        0,
        None,
    )
    assert (extrinsic.module, extrinsic.function, extrinsic.args) == ("System", "remark", {"remark": "hello"})


@pytest.mark.parametrize("position", [40, 70, -1])
def test_a_changed_byte_breaks_the_signature(make_bench: Make, position: int):
    bench = make_bench()
    raw = bytearray(_remark(bench))
    raw[position] ^= 1
    with pytest.raises(InvalidTransaction, match=r"bad signature|Unable to decode"):
        bench.chain.submit(bytes(raw))


@pytest.mark.parametrize("changes", [{"genesis_hash": "0x" + "11" * 32}, {"spec_version": 7}])
def test_a_signature_for_another_chain_or_runtime_is_bad(make_bench: Make, changes: dict[str, Any]):
    bench = make_bench()
    with pytest.raises(InvalidTransaction, match="bad signature"):
        bench.chain.submit(_remark(bench, **changes))


def test_nonces(make_bench: Make):
    bench = make_bench()
    account = bench.key("owner", "coldkey").ss58_address
    ahead = _remark(bench, nonce=1)
    bench.chain.submit(ahead)
    bench.chain.produce()
    assert bench.outcomes() == []
    bench.chain.submit(_remark(bench, nonce=0))
    assert bench.chain.next_nonce(account) == 2
    with pytest.raises(InvalidTransaction, match="Already imported"):
        bench.chain.submit(ahead)
    with pytest.raises(InvalidTransaction, match="Priority is too low"):
        bench.chain.submit(_remark(bench, nonce=1))
    bench.chain.produce()
    assert len(bench.outcomes()) == 2
    with pytest.raises(InvalidTransaction, match="outdated"):
        bench.chain.submit(_remark(bench, nonce=1))
    with pytest.raises(InvalidTransaction, match="in the future"):
        bench.chain.submit(_remark(bench, nonce=3 + MAX_NONCE_GAP))


def test_a_mortal_extrinsic_dies_with_its_era(make_bench: Make):
    bench = make_bench()
    bench.blocks(20)
    bench.chain.submit(_remark(bench, nonce=1, era={"period": 8, "current": 16}))
    bench.blocks(1)
    bench.chain.submit(_remark(bench, nonce=0, era={"period": 8, "current": 16}))
    bench.blocks(1)
    assert bench.outcomes() == ["CallFiltered", "CallFiltered"]
    stale = _remark(bench, nonce=2, era={"period": 8, "current": 16})
    bench.blocks(3)
    with pytest.raises(InvalidTransaction, match="bad signature"):
        bench.chain.submit(stale)


def test_what_waits_for_a_nonce_that_never_comes_leaves_when_its_era_ends(make_bench: Make):
    bench = make_bench()
    bench.blocks(16)
    told: list[Any] = []
    for nonce in range(1, 1 + MAX_NONCE_GAP):
        bench.chain.submit(_remark(bench, nonce=nonce, era={"period": 8, "current": 16}), told.append)
    bench.blocks(23 - bench.chain.number)  # the last of the era
    assert (told, len(bench.chain.pool)) == ([], MAX_NONCE_GAP)
    bench.blocks(1)
    assert (told, len(bench.chain.pool)) == (["invalid"] * MAX_NONCE_GAP, 0)


def test_a_waiting_extrinsic_is_dropped_when_its_era_ends(make_bench: Make):
    bench = make_bench()
    bench.blocks(16)
    told: list[Any] = []
    bench.chain.submit(_remark(bench, nonce=1, era={"period": 8, "current": 16}), told.append)
    bench.blocks(10)
    bench.chain.submit(_remark(bench, nonce=0))
    bench.blocks(1)
    assert (told, bench.outcomes(), len(bench.chain.pool)) == (["invalid"], ["CallFiltered"], 0)


@pytest.mark.parametrize(
    ("era", "number", "start"),
    [((64, 0), 0, 0), ((64, 0), 63, 0), ((64, 0), 64, 64), ((64, 10), 73, 10), ((8, 3), 1, 3)],
)
def test_where_an_era_begins(era: tuple[int, int], number: int, start: int):
    assert birth(era, number) == start


@pytest.mark.parametrize(
    "raw", [b"", b"\x00", b"\x04\x84", bytes(200), b"\xff" * 400, b"\x02\x09\x3d\x00" + b"\x84" * 99]
)
def test_garbage_is_refused(make_bench: Make, raw: bytes):
    with pytest.raises(InvalidTransaction):
        make_bench().chain.submit(raw)


def test_an_oversized_extrinsic_is_refused(make_bench: Make):
    bench = make_bench()
    raw = bench.signed(bench.key("owner", "coldkey"), "System", "remark", remark=b"x" * 20_000)
    with pytest.raises(InvalidTransaction, match="block limits"):
        bench.chain.submit(raw)


def test_nothing_grows_with_the_number_of_blocks(make_bench: Make):
    bench = make_bench(tempo=10)
    bench.blocks(1_500)
    held, keys = bench.chain.state.store.superseded, len(bench.chain.state.store)
    bench.blocks(1_500)
    assert abs(bench.chain.state.store.superseded - held) < 100
    assert len(bench.chain.state.store) == keys
    assert bench.chain.blocks.by_hash(str(bench.chain.blocks.hash_of(100))) is None
