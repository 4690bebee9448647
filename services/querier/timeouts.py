"""How long miners get: as set, and longer for longer prompts where that is wanted."""

from __future__ import annotations

from collections.abc import Sequence

from coremesh.contracts import ChatMessage


def timeout_s(base_s: float, per_char_s: float, messages: Sequence[ChatMessage], *, most_s: float) -> float:
    """``base_s``, and ``per_char_s`` for each character of what is asked, up to ``most_s`` (never under ``base_s``).

    System messages do not count: they are the same for every question. So did the first validator, early on.
    """
    if not per_char_s:
        return base_s
    chars = sum(len(message.content) for message in messages if message.role != "system")
    return max(base_s, min(base_s + per_char_s * chars, most_s))
