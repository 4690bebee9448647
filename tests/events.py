"""Making events for tests."""

from __future__ import annotations

import msgspec

from coremesh.events import Flag, ForwardEvent, Message, forward_event
from coremesh.history import Entry
from coremesh.types import new_event_id


def hotkey(n: int) -> str:
    """A name that stands for a hotkey."""
    return f"5Hotkey{n:04d}"


def make_event(
    rewards: dict[int, float | None],
    *,
    hotkeys: dict[int, str] | None = None,
    question: str = "Why is the sky blue?",
    flags: Flag = Flag.SCORED | Flag.TRAIN_GATING,
    event_id: str | None = None,
    block: int = 1,
) -> ForwardEvent:
    """An event: uid -> reward, None for a miner that failed."""
    uids = list(rewards)
    names = hotkeys or {}
    return forward_event(
        id=event_id or new_event_id(),  # type: ignore[arg-type]
        time_ms=1_700_000_000_000,
        block=block,
        kind="answer",
        flags=flags,
        messages=(Message("user", question),),
        uids=uids,
        hotkeys=[names.get(uid, hotkey(uid)) for uid in uids],
        status=[1 if rewards[uid] is None else 0 for uid in uids],
        latency_s=[0.1] * len(uids),
        rewards=[float("nan") if rewards[uid] is None else rewards[uid] for uid in uids],
        parts={"relevance": [float("nan") if rewards[uid] is None else rewards[uid] for uid in uids]},
        gating=[0.0] * len(uids),
        best=0,
        available=len(uids),
    )


def alike(entries: list[Entry]) -> list[Entry]:
    """Entries with all parts of their events as float32: an archive does not tell how they were packed."""
    return [
        msgspec.structs.replace(entry, event=as_floats(entry.event))
        if isinstance(entry.event, ForwardEvent)
        else entry
        for entry in entries
    ]


def as_floats(event: ForwardEvent) -> ForwardEvent:
    return msgspec.structs.replace(event, parts_=event.sound_parts, columns_={})
