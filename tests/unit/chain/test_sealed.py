"""What clients seal and the chain opens: timelocked commits and shielded extrinsics, sealed by the SDK's core."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from devnet.chain.core import core
from devnet.chain.drand import KNOWN_SIGNATURES, QUICKNET, Beacon, Revealed, decode_payload, unseal
from devnet.chain.options import Drand
from devnet.chain.shield import Shield

HOTKEY = bytes(range(32))


def _commit(block_time: float) -> tuple[bytes, int]:
    commit, reveal_round = core.get_encrypted_commit_v2(
        uids=[2, 3],
        weights=[65_535, 7],
        version_key=9,
        last_epoch_block=100,
        pending_epoch_at=0,
        subnet_epoch_index=3,
        tempo=60,
        blocks_since_last_step=10,
        current_block=110,
        subnet_reveal_period_epochs=1,
        block_time=block_time,
        hotkey=HOTKEY,
    )
    return bytes(commit), reveal_round


def test_a_commit_sealed_to_the_past_opens_with_the_known_signature():
    commit, reveal_round = _commit(-1e12)
    assert reveal_round == 1
    assert unseal(commit, 1, KNOWN_SIGNATURES[1]) == Revealed(HOTKEY, [2, 3], [65_535, 7], 9)


def test_a_commit_sealed_to_the_future_does_not():
    commit, reveal_round = _commit(12.0)
    with pytest.raises(ValueError):
        unseal(commit, reveal_round, KNOWN_SIGNATURES[1])


@pytest.mark.parametrize("commit", [b"", b"\x00" * 300, b"AES_GCM_"])
def test_garbage_does_not_open(commit: bytes):
    with pytest.raises(ValueError):
        unseal(commit, 1, KNOWN_SIGNATURES[1])


@pytest.mark.parametrize("plain", [b"", b"\x04a", b"\x04a\xfe\xff\xff\xff", b"\x00\x04\x01\x00\x00\x00"])
def test_a_payload_that_is_cut_short_is_refused(plain: bytes):
    with pytest.raises(ValueError):
        decode_payload(plain)


@pytest.fixture
def relay() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Relay(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            known = self.path == f"/{QUICKNET}/public/5"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"round": 5, "signature": "ab" * 48}).encode() if known else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    thread.join()
    server.server_close()


async def test_the_beacon_asks_a_relay_for_rounds_that_are_due(relay: tuple[str, list[str]]):
    url, asked = relay
    beacon = Beacon(Drand.BEACON, url)
    assert [beacon.signature(r) for r in (1, 5, 2**40)] == [KNOWN_SIGNATURES[1], None, None]
    await beacon.fetch(1_692_803_367 + 60)
    assert (beacon.signature(5), beacon.signature(2**40)) == ("ab" * 48, None)
    await beacon.fetch(1_692_803_367 + 60)
    assert asked == [f"/{QUICKNET}/public/5"]


async def test_a_round_the_relay_does_not_have_is_asked_for_again(relay: tuple[str, list[str]]):
    url, asked = relay
    beacon = Beacon(Drand.BEACON, url)
    beacon.signature(6)
    for _ in range(2):
        await beacon.fetch(1_692_803_367 + 60)
    assert (beacon.signature(6), len(asked)) == (None, 2)


def test_without_drand_nothing_is_known():
    assert Beacon(Drand.OFF, "").signature(1) is None


@pytest.mark.parametrize("size", [0, 1, 300, 8_000])
def test_what_the_sdk_shields_the_chain_reads(size: int):
    shield, plain = Shield(), bytes(i % 251 for i in range(size))
    assert shield.unseal(bytes(core.encrypt_mlkem768(shield.public_key, plain, True))) == plain


def test_a_tampered_or_foreign_carrier_is_refused():
    shield = Shield()
    sealed = bytearray(core.encrypt_mlkem768(shield.public_key, b"call", True))
    for broken in (bytes(sealed[:-1]), bytes(sealed[:-1]) + b"\x00" * 2, b"", b"\x00" * 2_000):
        with pytest.raises(ValueError):
            shield.unseal(broken)
