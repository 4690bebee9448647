"""The public key in an X.509 certificate, to be compared with the one that its owner has published on the chain.

Only as much DER as it takes to get there (RFC 5280, 4.1): a certificate is a sequence whose first part is a sequence
of version, serial number, algorithm, issuer, validity, subject, and the key.
"""

from __future__ import annotations

_SEQUENCE, _INTEGER, _BIT_STRING, _VERSION = 0x30, 0x02, 0x03, 0xA0
_BEFORE_KEY = (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE)
_UNCOMPRESSED = 0x04


def public_key(certificate: bytes) -> bytes:
    """The key's bits in a DER certificate: 32 bytes of Ed25519, a point of an elliptic curve, or a sequence of RSA's.

    Raises ValueError for what is no certificate.
    """
    start, _ = _enter(certificate, 0, _SEQUENCE)
    at, _ = _enter(certificate, start, _SEQUENCE)
    if certificate[at : at + 1] == bytes([_VERSION]):
        at = _enter(certificate, at, _VERSION)[1]
    for tag in _BEFORE_KEY:
        at = _enter(certificate, at, tag)[1]
    at, _ = _enter(certificate, at, _SEQUENCE)
    at = _enter(certificate, at, _SEQUENCE)[1]
    start, end = _enter(certificate, at, _BIT_STRING)
    return certificate[start + 1 : end]  # after the count of unused bits


def is_key(certificate: bytes, published: bytes) -> bool:
    """Whether ``published`` is the key of a DER certificate: as it is, or of a point its coordinates or short form."""
    try:
        found = public_key(certificate)
    except ValueError:
        return False
    if not published:
        return False
    if found == published:
        return True
    if not found or found[0] != _UNCOMPRESSED or len(found) % 2 == 0:
        return False
    half = len(found) // 2
    short = bytes([2 + (found[-1] & 1)]) + found[1 : 1 + half]
    return published in (found[1:], short)


def _enter(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the value with ``tag`` at ``at`` starts and ends. Raises ValueError when it is another, or cut off."""
    if at + 2 > len(der) or der[at] != tag:
        raise ValueError("not a certificate")
    length, start = der[at + 1], at + 2
    if length > 0x80:
        size = length & 0x7F
        if size > 4:
            raise ValueError("not a certificate")
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    if length == 0x80 or start + length > len(der):
        raise ValueError("not a certificate")
    return start, start + length
