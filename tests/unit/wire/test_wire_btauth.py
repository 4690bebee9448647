"""Requests signed here are accepted by bittensor's own code and the other way round; all else is refused."""

from __future__ import annotations

import time

import pytest
from bittensor import http_auth
from bittensor.keyfiles import Keypair
from hypothesis import given, settings
from hypothesis import strategies as st

from coremesh.errors import BadWallet, Busy, CoremeshError
from coremesh.wire.btauth import (
    BadAuth,
    BadSignature,
    MalformedAuth,
    ReplayedRequest,
    Signer,
    StaleRequest,
    WrongReceiver,
    body_digest,
    verify,
    verify_shared,
)
from coremesh.wire.keys import is_address, keypair_from_uri
from coremesh.wire.nonces import NS, InMemoryNonceStore

ALICE, BOB, EVE = (keypair_from_uri(uri) for uri in ("//Alice", "//Bob", "//Eve"))
BODY = b'{"roles":["user"],"messages":["hello"],"timeout":4.0}'
NOW = 1_800_000_000 * NS


def signed(**changes: str | None) -> dict[str, str]:
    headers = Signer(ALICE).headers("POST", "/forward", BODY, BOB.ss58_address, nonce_ns=NOW)
    for name, value in changes.items():
        key = "X-Bittensor-" + name.capitalize()
        if value is None:
            headers.pop(key)
        else:
            headers[key] = value
    return headers


def check(headers: dict[str, str], *, body: bytes = BODY, path: str = "/forward", now_ns: int = NOW) -> str:
    return verify(headers, body, "POST", path, BOB.ss58_address, InMemoryNonceStore(), now_ns)


def test_the_signed_request_names_its_sender_in_any_case_of_header() -> None:
    assert check(signed()) == ALICE.ss58_address
    assert check({name.lower(): value for name, value in signed().items()}) == ALICE.ss58_address


def test_bittensor_accepts_what_we_sign() -> None:
    headers = Signer(ALICE).headers("POST", "/forward?a=1", BODY, BOB.ss58_address)
    caller = http_auth.verify(
        headers, BODY, method="POST", path="/forward?a=1", self_hotkey_ss58=BOB.ss58_address
    )
    assert caller.hotkey_ss58 == ALICE.ss58_address


def test_we_accept_what_bittensor_signs() -> None:
    headers = http_auth.sign(
        Keypair.create_from_uri("//Eve"),
        method="POST",
        path="/forward",
        body=BODY,
        receiver_ss58=BOB.ss58_address,
        nonce_ns=NOW,
    )
    assert check(headers) == EVE.ss58_address


def test_the_three_ways_to_sign_say_the_same() -> None:
    signer = Signer(ALICE, clock_ns=lambda: NOW)
    digest = body_digest(BODY)
    by_body = Signer(ALICE).headers("POST", "/forward", BODY, BOB.ss58_address, NOW)
    by_digest = Signer(ALICE).headers("POST", "/forward", digest, BOB.ss58_address, NOW)
    lines = signer.prepare("post", "/forward", BODY).block(BOB.ss58_address).decode().split("\r\n")
    assert lines.pop() == ""
    block = dict(line.split(": ") for line in lines)
    for headers in (by_body, by_digest, block):
        signature = headers.pop("X-Bittensor-Signature")
        assert check({**headers, "X-Bittensor-Signature": signature}) == ALICE.ss58_address
    assert by_body == by_digest == block


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        (signed(version="2"), MalformedAuth),
        (signed(version=None), MalformedAuth),
        (signed(hotkey=None), MalformedAuth),
        (signed(hotkey="nobody"), MalformedAuth),
        (signed(hotkey="\ud800"), MalformedAuth),
        (signed(hotkey=EVE.ss58_address), BadSignature),
        (signed(nonce=None), MalformedAuth),
        (signed(nonce="1e9"), MalformedAuth),
        (signed(nonce="1_0"), MalformedAuth),
        (signed(nonce="٣"), MalformedAuth),
        (signed(nonce="9" * 5000), MalformedAuth),
        (signed(nonce=str(NOW + 1)), BadSignature),
        (signed(signature=None), MalformedAuth),
        (signed(signature="0xzz"), MalformedAuth),
        (signed(signature="0x" + "00" * 63), MalformedAuth),
        (signed(signature="0x" + "00" * 64), BadSignature),
        (signed(crypto="ed25519"), MalformedAuth),
        (signed(crypto="0"), MalformedAuth),
        (signed(receiver=None), WrongReceiver),
        (signed(receiver=EVE.ss58_address), WrongReceiver),
    ],
)
def test_altered_headers_are_refused(headers: dict[str, str], error: type[BadAuth]) -> None:
    with pytest.raises(error) as caught:
        check(headers)
    assert caught.value.status == 401
    assert set(caught.value.as_dict()) == {"code", "message", "remedy"}


def test_an_ed25519_key_is_not_accepted_whatever_it_declares() -> None:
    ed = Keypair.create_from_seed(bytes.fromhex("11" * 32), 0)
    headers = http_auth.sign(ed, method="POST", path="/forward", body=BODY, receiver_ss58=BOB.ss58_address)
    with pytest.raises(MalformedAuth):
        verify(headers, BODY, "POST", "/forward", BOB.ss58_address, InMemoryNonceStore())
    del headers["X-Bittensor-Crypto"]
    with pytest.raises(BadSignature):
        verify(headers, BODY, "POST", "/forward", BOB.ss58_address, InMemoryNonceStore())
    with pytest.raises(BadWallet):
        Signer(ed)


def test_body_and_path_are_bound() -> None:
    with pytest.raises(BadSignature):
        check(signed(), body=BODY + b" ")
    with pytest.raises(BadSignature):
        check(signed(), path="/backward")


@pytest.mark.parametrize("offset_s", [-10.0, -9.9, 0, 1.9, 2.0])
def test_fresh_enough(offset_s: float) -> None:
    assert check(signed(), now_ns=NOW - int(offset_s * NS)) == ALICE.ss58_address


@pytest.mark.parametrize("offset_s", [-10.1, -3600, 2.1, 3600])
def test_too_old_or_from_the_future(offset_s: float) -> None:
    with pytest.raises(StaleRequest):
        check(signed(), now_ns=NOW - int(offset_s * NS))


async def test_once_only_and_only_the_owner_spends_a_nonce() -> None:
    store = InMemoryNonceStore()
    forged = signed(signature="0x" + "00" * 64)
    with pytest.raises(BadSignature):
        verify(forged, BODY, "POST", "/forward", BOB.ss58_address, store, NOW)
    assert len(store) == 0
    assert verify(signed(), BODY, "POST", "/forward", BOB.ss58_address, store, NOW) == ALICE.ss58_address
    with pytest.raises(ReplayedRequest):
        verify(signed(), BODY, "POST", "/forward", BOB.ss58_address, store, NOW + NS)

    class Shared:
        async def add(self, hotkey: str, nonce_ns: int, now_ns: int) -> bool:
            return store.add(hotkey, nonce_ns, now_ns)

    with pytest.raises(ReplayedRequest):
        await verify_shared(signed(), BODY, "POST", "/forward", BOB.ss58_address, Shared(), NOW + NS)
    later = Signer(ALICE).headers("POST", "/forward", BODY, BOB.ss58_address, NOW + 1)
    assert (
        await verify_shared(later, BODY, "POST", "/forward", BOB.ss58_address, Shared(), NOW + NS)
        == ALICE.ss58_address
    )


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=30), st.text(max_size=60), max_size=8), st.binary(max_size=50))
def test_garbage_raises_only_our_errors(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(CoremeshError):
        check(
            {**signed(), **{f"X-Bittensor-{k}": v for k, v in headers.items()}, **headers}, body=body + b"!"
        )


def test_nonces_grow_even_when_the_clock_stands_still() -> None:
    signer = Signer(ALICE, clock_ns=lambda: NOW)
    assert [signer.next_nonce() for _ in range(3)] == [NOW, NOW + 1, NOW + 2]
    live = Signer(ALICE)
    assert abs(live.next_nonce() - time.time_ns()) < NS


class TestInMemoryNonceStore:
    def test_forgets_the_smallest_and_never_accepts_it_again(self) -> None:
        store = InMemoryNonceStore(max_per_hotkey=3)
        assert [store.add("a", NOW + i, NOW) for i in (5, 1, 3, 4)] == [True] * 4
        assert len(store) == 3
        assert [store.add("a", NOW + i, NOW) for i in (0, 1, 3, 5)] == [False] * 4
        assert store.add("a", NOW + 2, NOW)
        assert store.add("b", NOW + 1, NOW)

    def test_expired_nonces_leave(self) -> None:
        store = InMemoryNonceStore(retention_s=15)
        for i in range(1000):
            assert store.add("a", NOW + i * NS, NOW + i * NS)
            assert len(store) <= 16

    def test_hotkeys_are_bounded_and_make_room(self) -> None:
        store = InMemoryNonceStore(retention_s=15, max_hotkeys=2)
        assert store.add("a", NOW, NOW)
        assert store.add("b", NOW, NOW + 1)
        with pytest.raises(Busy) as caught:
            store.add("c", NOW, NOW + 2)
        assert caught.value.retry_after_s == 15
        assert store.add("a", NOW + 3, NOW + 3)
        assert store.add("c", NOW + 40 * NS, NOW + 40 * NS)
        assert len(store) == 1


def test_is_address() -> None:
    assert is_address(ALICE.ss58_address)
    assert not is_address(ALICE.ss58_address[:-1] + "1")
    assert not is_address("")
