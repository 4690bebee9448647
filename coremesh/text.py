"""Texts as models read them, and as people do."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol


class HasRoleAndContent(Protocol):
    """A turn of a conversation, whatever class it is."""

    @property
    def role(self) -> str:
        """Who speaks."""
        ...

    @property
    def content(self) -> str:
        """What is said."""
        ...


def flatten(messages: Iterable[HasRoleAndContent]) -> str:
    """Messages as ``role: content`` lines, as the gating model reads them."""
    return "\n".join(f"{message.role}: {message.content.strip()}" for message in messages)


def problem(name: str, said: str) -> str:
    """What is wrong with a part, with its name once: "metagraph: 300 s old", but "Redis does not answer"."""
    return said if said.lower().startswith(name.lower()) else f"{name}: {said}"


def octets(decoded: str | Iterable[int]) -> bytes:
    """The bytes of a chain's value as the SDK decodes it: to text where they are UTF-8, else to ``0x`` and hex digits.

    Never raises for what a stranger has stored. Of two values that the SDK shows alike it is the one that is no text.
    """
    if not isinstance(decoded, str):
        return bytes(decoded)
    if decoded.startswith("0x"):
        with suppress(ValueError):
            found = bytes.fromhex(decoded[2:])
            if not _is_utf8(found):
                return found
    return decoded.encode(errors="surrogatepass")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
