"""Signed extrinsics: taken apart, and verified the way a node verifies them before its pool takes them."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from devnet.chain.codec import Codec
from devnet.chain.core import core
from devnet.chain.metadata import TRANSACTION_VERSION, compact, read_compact

MAX_EXTRINSIC_BYTES = 16 * 1024
_SIGNED_V4 = 0x84
_ACCOUNT_ID = 0x00
_SCHEMES = {0: core.CRYPTO_ED25519, 1: core.CRYPTO_SR25519}


class InvalidTransaction(Exception):
    """Refused before the pool, with the text a node gives; ``Custom error: N`` carries subtensor's code."""


@dataclass(frozen=True, slots=True)
class Extrinsic:
    """One signed extrinsic. ``era`` is (period, phase), None when immortal."""

    raw: bytes
    signer: str
    scheme: int
    signature: bytes
    extra: bytes
    era: tuple[int, int] | None
    nonce: int
    tip: int
    call: bytes
    module: str
    function: str
    args: dict[str, Any]

    @property
    def hash(self) -> str:
        """0x-hex blake2b-256 of the whole extrinsic."""
        return "0x" + blake2b(self.raw, digest_size=32).hexdigest()


def parse(raw: bytes, codec: Codec) -> Extrinsic:
    """Take an extrinsic apart; InvalidTransaction when it is not a signed V4 extrinsic of this runtime."""
    if len(raw) > MAX_EXTRINSIC_BYTES:
        raise InvalidTransaction("Transaction would exhaust the block limits")
    try:
        return _parse(raw, codec)
    except (ValueError, IndexError, KeyError) as problem:
        raise InvalidTransaction(f"Unable to decode the extrinsic: {problem}") from problem


def _parse(raw: bytes, codec: Codec) -> Extrinsic:
    length, at = read_compact(raw, 0)
    if length != len(raw) - at or raw[at] != _SIGNED_V4 or raw[at + 1] != _ACCOUNT_ID:
        raise ValueError("not one signed version 4 extrinsic by an account id")
    public_key = raw[at + 2 : at + 34]
    scheme = raw[at + 34]
    signature = raw[at + 35 : at + 99]
    start = at = at + 99
    era: tuple[int, int] | None = None
    if raw[at] == 0:
        at += 1
    else:
        era = _era(int.from_bytes(raw[at : at + 2], "little"))
        at += 2
    nonce, at = read_compact(raw, at)
    tip, at = read_compact(raw, at)
    if raw[at] != 0:
        raise ValueError("metadata hashes are not supported")
    at += 1
    call = raw[at:]
    decoded = codec.runtime.decode_call(call)
    return Extrinsic(
        raw=raw,
        signer=core.encode_ss58(public_key, 42),
        scheme=scheme,
        signature=signature,
        extra=raw[start:at],
        era=era,
        nonce=nonce,
        tip=tip,
        call=call,
        module=decoded["call_module"],
        function=decoded["call_function"],
        args={arg["name"]: arg["value"] for arg in decoded["call_args"]},
    )


def _era(encoded: int) -> tuple[int, int]:
    period = 2 << (encoded % 16)
    if period < 4:
        raise ValueError("an era of less than 4 blocks")
    phase = (encoded >> 4) * max(1, period >> 12)
    if phase >= period:
        raise ValueError("an era's phase is beyond its period")
    return period, phase


def birth(era: tuple[int, int], number: int) -> int:
    """The block an era begins at, seen from block ``number``; it ends ``period`` blocks later."""
    period, phase = era
    return (max(number, phase) - phase) // period * period + phase


def verify(extrinsic: Extrinsic, codec: Codec, *, genesis_hash: str, birth_hash: str) -> None:
    """Check the signature over call, extra and what the chain implies; InvalidTransaction when it is bad."""
    implied = (
        codec.spec_version.to_bytes(4, "little")
        + TRANSACTION_VERSION.to_bytes(4, "little")
        + bytes.fromhex(genesis_hash[2:])
        + bytes.fromhex(birth_hash[2:])
        + b"\x00"
    )
    payload = extrinsic.call + extrinsic.extra + implied
    if len(payload) > 256:
        payload = blake2b(payload, digest_size=32).digest()
    scheme = _SCHEMES.get(extrinsic.scheme)
    if scheme is None or not core.verify(payload, extrinsic.signature, extrinsic.signer, scheme):
        raise InvalidTransaction("Transaction has a bad signature")


def inherent(codec: Codec, timestamp_ms: int) -> bytes:
    """The unsigned ``Timestamp.set`` that opens every block."""
    body = b"\x04" + bytes(codec.runtime.compose_call("Timestamp", "set", {"now": timestamp_ms}))
    return compact(len(body)) + body
