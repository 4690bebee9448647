"""The one door to bittensor's keys: what we need of a keypair, and a check of a signature."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

import bittensor.keyfiles as _keyfiles

SR25519 = 1
"""bittensor's number for the signature scheme that hotkeys use."""
SIGNATURE_BYTES = 64


@runtime_checkable
class KeyPair(Protocol):
    """What we use of a bittensor keypair that can sign."""

    @property
    def ss58_address(self) -> str:
        """The address, as text."""
        ...

    @property
    def crypto_type(self) -> int:
        """0 = ed25519, 1 = sr25519."""
        ...

    def sign(self, message: bytes, /) -> bytes:
        """64 bytes over ``message``."""
        ...


def keypair_from_uri(uri: str) -> KeyPair:
    """An sr25519 keypair of a development phrase such as ``//Alice``; for devnets and tests."""
    return cast(KeyPair, cast(Any, _keyfiles).Keypair.create_from_uri(uri))


def verifies(message: bytes, signature: bytes, ss58: str) -> bool:
    """True when ``signature`` is ``ss58``'s sr25519 signature over ``message``.

    The scheme is ours to say, never the sender's. Raises ValueError when the address is not one or
    the signature has another length.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    keypair = cast(Any, _keyfiles).Keypair(ss58_address=ss58, crypto_type=SR25519)
    return bool(keypair.verify(message, signature))


def is_address(ss58: str) -> bool:
    """True when ``ss58`` decodes: right alphabet, length and checksum."""
    try:
        cast(Any, _keyfiles).Keypair(ss58_address=ss58, crypto_type=SR25519)
    except ValueError:
        return False
    return True
