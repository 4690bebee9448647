"""Counting tokens without a tokenizer: miners run models of their own, so any count is an approximation."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Up to six letters or digits in a row, or one other sign: near what byte-pair encodings make of English.
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w{1,6}|[^\w\s]")


def count(text: str) -> int:
    """About how many tokens ``text`` has."""
    return sum(1 for _ in _TOKEN.finditer(text))


def first(text: str, tokens: int) -> str:
    """``text`` up to the end of its first ``tokens`` tokens."""
    if tokens < 1:
        return ""
    for n, match in enumerate(_TOKEN.finditer(text), start=1):
        if n == tokens:
            return text[: match.end()]
    return text


class Cutter:
    """Ends a text at the first of ``stops`` or after ``most`` tokens, however it is cut into pieces.

    Holds back what may be the beginning of a stop sequence, and with ``most`` what may be the beginning of a longer
    word; the time is linear in the text.
    """

    def __init__(self, stops: Sequence[str] = (), most: int | None = None) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._hold = max((len(stop) for stop in self._stops), default=1) - 1
        self._most = most
        self._held = ""
        self._tokens = 0
        self.finish: str | None = None
        """``stop`` or ``length`` once it is over."""

    def feed(self, text: str) -> str:
        """What can be given out now; empty for ever once it is over."""
        if self.finish is not None:
            return ""
        # Only what is new can complete a stop sequence, with up to ``hold`` characters from before.
        searched = max(0, len(self._held) - self._hold)
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop, searched)) >= 0]
        if found:
            _, at = min(found)  # the one that is complete first, as when the text comes letter by letter
            return self._give(self._held[:at], "stop")
        ready = len(self._held) - self._hold
        if self._most is not None:
            # Tokens never span white space, so counting piece by piece is counting the whole.
            # The space itself waits with the next word: a text that ends by length does not end in one.
            end = next((at for at in range(ready, searched, -1) if self._held[at - 1].isspace()), 0)
            ready = len(self._held[:end].rstrip())
        if ready <= 0:
            return ""
        text, self._held = self._held[:ready], self._held[ready:]
        return self._give(text, None)

    def end(self) -> str:
        """What was held back, when no more text comes."""
        return self._give(self._held, "stop") if self.finish is None else ""

    def _give(self, text: str, finish: str | None) -> str:
        tokens = count(text)
        if self._most is not None and self._tokens + tokens > self._most:
            text = first(text, self._most - self._tokens)
            tokens, finish = self._most - self._tokens, "length"
        self._tokens += tokens
        self.finish = finish
        return text


def pieces(text: str) -> list[str]:
    """``text`` in pieces of a word each, with the white space that follows; joined they give it again."""
    return re.findall(r"\s*\S+\s*", text) or ([text] if text else [])
