"""Texts as models read them, and as people do."""

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


def problem(name: str, said: str) -> str:
    """What is wrong with a part, with its name once: "metagraph: 300 s old", but "Redis does not answer"."""
    return said if said.lower().startswith(name.lower()) else f"{name}: {said}"
