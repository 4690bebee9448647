"""One forward as wandb shows it: numbers to draw, lists to look at, texts only where they are wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coremesh.events import ForwardEvent, Transcript
from coremesh.types import StreamId
from coremesh.wire.status import Status, name_of

MOST_CHARS = 4000
"""Characters of one text."""
Row = dict[str, Any]


def row_of(
    place: StreamId, event: ForwardEvent, names: Mapping[int, str], *, texts: Transcript | None, prompt: bool
) -> Row:
    """The event's row. JSON: what is not finite is None. ``names`` are hotkeys by digest; ``texts`` completions."""
    rewards = event.rewards
    finite = rewards[np.isfinite(rewards)]
    n = len(event.uids)
    best = event.best if 0 <= event.best < n else None
    row: Row = {
        "event_id": event.id,
        "stream_id": place,
        "time_ms": event.time_ms,
        "block": event.block,
        "kind": event.kind,
        "asked": n,
        "succeeded": int((event.status == int(Status.OK)).sum()),
        "reward/mean": _finite(finite.mean()) if len(finite) else None,
        "reward/best": _finite(rewards[best]) if best is not None else None,
        "latency_s/median": _finite(np.median(event.latency_s)) if n else None,
        "best_uid": int(event.uids[best]) if best is not None else None,
        "uids": event.uids.tolist(),
        "hotkeys": [names.get(int(digest), "") for digest in event.hotkeys],
        "statuses": [name_of(code) for code in event.status.tolist()],
        "latencies_s": _column(event.latency_s),
        "rewards": _column(rewards),
        "gating": _column(event.gating),
        "head_version": event.head_version,
        "stack_version": event.stack_version,
        "stats_version": event.stats_version,
        "degraded": list(event.degraded),
        "trace_id": event.trace,
    }
    for name, values in event.parts.items():
        row[f"parts/{name}"] = _column(values)
    if prompt:
        row["prompt"] = [f"{m.role}: {m.content}"[:MOST_CHARS] for m in event.messages]
    if texts is not None:
        row["completions"] = [text[:MOST_CHARS] for text in texts.completions]
    return row


def _column(values: Sequence[float] | Any) -> list[float | None]:
    return [_finite(value) for value in values]


def _finite(value: Any) -> float | None:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None
