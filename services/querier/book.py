"""How miners did since the process started: for people, never for scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coremesh.wire.status import Status

NEW_SHARE = 0.2
"""Share of a new latency in the moving average."""


@dataclass(slots=True)
class Page:
    """One hotkey's numbers."""

    asked: int = 0
    succeeded: int = 0
    last_status: Status | None = None
    latency_s: float | None = None


class Book:
    """A page per hotkey; bounded, because pages of hotkeys that have left are torn out."""

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}

    def note(self, hotkey: str, status: Status, latency_s: float) -> None:
        """Write down one reply."""
        page = self._pages.setdefault(hotkey, Page())
        page.asked += 1
        page.last_status = status
        if status == Status.OK:
            page.succeeded += 1
            old = latency_s if page.latency_s is None else page.latency_s
            page.latency_s = old + NEW_SHARE * (latency_s - old)

    def page(self, hotkey: str) -> Page:
        """What is known of a hotkey."""
        return self._pages.get(hotkey, Page())

    def expected_s(self, hotkey: str) -> float:
        """Its moving average of good answers; infinite while it has given none: it may take all the time there is."""
        latency_s = self.page(hotkey).latency_s
        return math.inf if latency_s is None else latency_s

    def keep(self, hotkeys: set[str]) -> None:
        """Tear out all other pages."""
        for gone in self._pages.keys() - hotkeys:
            del self._pages[gone]
