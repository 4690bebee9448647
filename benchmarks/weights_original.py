"""The first validator's fold, event by event in torch, as REFERENCE describes it: what ours is measured against.

An event in its memory holds tensors and the hotkeys of the whole network, and each is compared with the one before:
that is where a replaced hotkey is noticed. The original walked the uids in Python; comparing the lists is the same in
its best form. Nothing else is done for an event: no copy to a device, no decoding, no progress bar.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

ALPHA = 0.99


@dataclass(frozen=True)
class OriginalEvent:
    uids: torch.Tensor
    """Of the successes."""
    queried: torch.Tensor
    rewards: torch.Tensor
    hotkeys: list[str]
    """Of the whole network."""


@dataclass(frozen=True)
class LoggedEvent:
    """The same as the original's event log keeps it: Python lists."""

    uids: list[int]
    queried: list[int]
    rewards: list[float]
    hotkeys: list[str]

    def tensors(self) -> OriginalEvent:
        return OriginalEvent(
            torch.tensor(self.uids), torch.tensor(self.queried), torch.tensor(self.rewards), self.hotkeys
        )


def fold(events: Iterable[OriginalEvent], size: int, *, walk: bool) -> torch.Tensor:
    """Scores after ``events``. ``walk``: compare hotkeys uid by uid, as the original did."""
    scores = torch.zeros(size)
    last: list[str] | None = None
    for event in events:
        if last is not None:
            if walk:
                for uid, hotkey in enumerate(last):
                    if hotkey != event.hotkeys[uid]:
                        scores[uid] = 0
            elif last != event.hotkeys:
                changed = [uid for uid, hotkey in enumerate(last) if hotkey != event.hotkeys[uid]]
                scores[changed] = 0
        last = event.hotkeys
        shares = torch.softmax(event.rewards, dim=0)
        target = scores.scatter(0, event.queried, 0.0)
        target = target.scatter(0, event.uids, shares)
        scores = ALPHA * scores + (1 - ALPHA) * target
    return torch.nan_to_num(scores)
