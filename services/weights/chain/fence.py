"""A signature that only a leader gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class FencedOff(Exception):
    """Nothing was signed: another leads."""


class FencedSigner:
    """Our hotkey as the SDK sees it, which signs while ``may`` says so.

    The SDK reads a dozen things before it signs, and a process may be stopped at any of them for longer than its
    lease. After the signature nothing is read: all that is left is to send it.
    """

    def __init__(self, keypair: Any, may: Callable[[], bool]) -> None:
        self._keypair = keypair
        self._may = may

    @property
    def ss58_address(self) -> str:
        """The hotkey's address."""
        return self._keypair.ss58_address

    @property
    def public_key(self) -> bytes:
        """The hotkey's public key."""
        return self._keypair.public_key

    @property
    def crypto_type(self) -> int:
        """The scheme of its signatures."""
        return self._keypair.crypto_type

    def sign(self, payload: bytes) -> bytes:
        """A signature. Raises FencedOff."""
        if not self._may():
            raise FencedOff("another instance leads: nothing was signed")
        return self._keypair.sign(payload)
