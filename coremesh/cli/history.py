"""``coremesh history``: looking at what is recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from coremesh import tables
from coremesh.cli import show
from coremesh.events import ForwardEvent
from coremesh.history import Entry, History
from coremesh.history.redis import RedisHistory
from coremesh.settings import ALL_SECTIONS, ChainSettings, RedisSettings, load
from coremesh.types import ORIGIN, finite
from coremesh.wire.status import name_of

WAIT = timedelta(seconds=1)


def tail(config: Path | None, count: int, *, follow: bool, as_json: bool) -> None:
    """Print the newest events, oldest first; ``follow``: and then every new one. Raises HistoryUnavailable."""
    settings = load(
        [RedisSettings, ChainSettings], ["--config", str(config)] if config else [], known=ALL_SECTIONS
    )
    redis = settings[RedisSettings]

    async def run() -> None:
        history = RedisHistory(
            redis.address, settings[ChainSettings].netuid, timeout=timedelta(seconds=redis.timeout_s)
        )
        console = tables.console()
        try:
            async for entry in _entries(history, count, follow=follow):
                row = await described(history, entry)
                if as_json:
                    print(json.dumps(row, ensure_ascii=False), flush=True)
                else:
                    # A line of a log: a terminal folds it, `grep` finds it whole.
                    console.print(show.plain(_line(row)), highlight=False, soft_wrap=True)
        finally:
            await history.close()

    asyncio.run(run())


async def _entries(history: History, count: int, *, follow: bool) -> AsyncIterator[Entry]:
    newest = list(reversed(await history.tail(count))) if count else []
    for entry in newest:
        yield entry
    at = newest[-1].stream_id if newest else await history.last_id() or ORIGIN
    while follow:
        for entry in await history.read(at, 100, WAIT):
            at = entry.stream_id
            yield entry


async def described(history: History, entry: Entry) -> dict[str, Any]:
    """An event as JSON takes it, with hotkeys and names of statuses; texts are left out."""
    event = entry.event
    row: dict[str, Any] = {
        "stream_id": entry.stream_id,
        "event_id": event.id,
        "time_ms": event.time_ms,
        "block": event.block,
    }
    if not isinstance(event, ForwardEvent):
        changes = [{"uid": c.uid, "old": c.old, "new": c.new} for c in event.changes]
        return row | {
            "kind": "metagraph",
            "size": event.size,
            "changes": changes,
            "permits": event.permits.tolist(),
            "excluded": event.excluded.tolist(),
        }
    names = await history.resolve([int(digest) for digest in event.hotkeys if digest])
    return row | {
        "kind": event.kind,
        "flags": list(event.flag_names),
        "uids": event.uids.tolist(),
        "hotkeys": [names.get(int(digest), "") for digest in event.hotkeys],
        "statuses": [name_of(int(code)) for code in event.status],
        "latencies_s": [finite(latency) for latency in event.latency_s],
        "rewards": [finite(reward) for reward in event.rewards],
        "best": event.best,
        "stack_version": event.stack_version,
        "degraded": list(event.degraded),
    }


def _line(row: dict[str, Any]) -> str:
    time = datetime.fromtimestamp(row["time_ms"] / 1000, UTC).strftime("%m-%d %H:%M:%S")
    head = f"{time} {row['event_id']} block {row['block']} {row['kind']}"
    if row["kind"] == "metagraph":
        changed = " ".join(str(change["uid"]) for change in row["changes"][:20])
        return f"{head}: {row['size']} uids, {len(row['changes'])} changed {changed}".rstrip()
    failed = [status for status in row["statuses"] if status != "ok"]
    said = f"{head}: {len(row['uids'])} asked, {len(row['uids']) - len(failed)} ok"
    if 0 <= row["best"] < len(row["uids"]):
        reward = row["rewards"][row["best"]]
        said += f", best {row['uids'][row['best']]}" + ("" if reward is None else f" with {reward:.4f}")
    if failed:
        kinds = sorted(set(failed))
        said += "; " + ", ".join(f"{failed.count(kind)} {kind}" for kind in kinds)
    return said + (f"; degraded: {', '.join(row['degraded'])}" if row["degraded"] else "")
