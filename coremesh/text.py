"""Texts as models read them."""

from __future__ import annotations

from collections.abc import Iterable
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
