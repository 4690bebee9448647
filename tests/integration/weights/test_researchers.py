"""The page for researchers: its table is the schema, and its queries run on a real archive and agree."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from coremesh.events import Flag, ForwardEvent, Message, forward_event
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN, new_event_id, stream_key
from coremesh.wire.status import Status
from services.weights.archive.schema import EVENTS, METAGRAPH, SCHEMAS, SUBMISSIONS
from tests.integration.weights.test_archive import archived_to, archiver, finished, local, tell
from tests.integration.weights.test_every_await import end
from tests.unit.docs.references import text
from tests.wait import wait_until

MONDAY = datetime(2026, 6, 1, 12, tzinfo=UTC)
PYTHON = re.findall(r"^```python\n(.*?)^```", text("researchers.md"), re.MULTILINE | re.DOTALL)
SQL = re.findall(r"^```sql\n(.*?)^```", text("researchers.md"), re.MULTILINE | re.DOTALL)


def fortnight() -> list[ForwardEvent]:
    events: list[ForwardEvent] = []
    for n in range(40):
        uids = [1, 2, 3, 4 + n % 2]
        status = [0, n % 3, 0 if n % 5 else 4, 1]
        rewards = [
            0.25 * uid + 0.125 * n if code == 0 else math.nan for uid, code in zip(uids, status, strict=True)
        ]
        events.append(
            forward_event(
                id=new_event_id(),
                time_ms=int((MONDAY + timedelta(hours=9 * n)).timestamp() * 1000),
                block=n,
                kind=("answer", "inference")[n % 2],
                flags=Flag.SCORED if n % 7 else Flag.NONE,
                messages=(Message("user", "Why?"),),
                uids=uids,
                hotkeys=[f"5Hotkey{uid:04d}" for uid in uids],
                status=status,
                latency_s=[0.25 * (1 + (n + uid) % 6) for uid in uids],
                rewards=rewards,
                parts={"relevance": rewards},
            )
        )
    return events


@pytest.fixture
async def archive(redis_history: RedisHistory, tmp_path: Path) -> Path:
    await tell(redis_history, [*fortnight()])
    running = asyncio.create_task(
        archiver(redis_history, local(tmp_path / "archive"), "me", part_rows=7).run()
    )
    last = await finished(redis_history)
    await wait_until(lambda: archived_to(redis_history, *last))
    await end(running)
    return tmp_path


async def asked(archive: Path, n: int) -> list[dict[str, Any]]:
    """What both engines answer to the n-th question."""
    there = str(archive / "archive")
    scope: dict[str, Any] = {}
    exec(PYTHON[n].replace('"archive/', f'"{there}/'), scope)
    found: pl.DataFrame = scope["found"]
    with duckdb.connect() as connection:
        other = connection.sql(SQL[n].replace("'archive/", f"'{there}/")).pl()
    assert found.columns == other.columns
    rows, others = found.rows(named=True), other.rows(named=True)
    assert len(rows) == len(others) > 1
    for one, two in zip(rows, others, strict=True):
        for name, value in one.items():
            assert two[name] == (pytest.approx(value) if isinstance(value, float) else value), name
    return rows


def answers() -> list[tuple[ForwardEvent, int]]:
    return [(event, i) for event in fortnight() for i in range(4)]


async def test_the_best_miners_by_week_and_kind(archive: Path) -> None:
    rewards: dict[Any, list[float]] = defaultdict(list)
    for event, i in answers():
        day = datetime.fromtimestamp(event.time_ms / 1000, UTC).date()
        week = day - timedelta(days=day.weekday())
        if event.scored:
            rewards[week, event.kind, f"5Hotkey{event.uids[i]:04d}"].append(float(event.rewards[i]))
    wanted = {
        key: (len(values), len(good), pytest.approx(sum(good) / len(good)))
        for key, values in rewards.items()
        if (good := [value for value in values if not math.isnan(value)])
    }
    found = await asked(archive, 0)
    assert {
        (row["week"], row["kind"], row["hotkeys"]): (row["asked"], row["succeeded"], row["mean_reward"])
        for row in found
    } == wanted
    assert found == sorted(
        found, key=lambda row: (row["week"], row["kind"], -row["mean_reward"], row["hotkeys"])
    )


async def test_failures_by_status_and_day(archive: Path, redis_history: RedisHistory) -> None:
    entries = await redis_history.read(ORIGIN, 1000)
    counts: Counter[Any] = Counter()
    for entry in entries:
        at = datetime.fromtimestamp(stream_key(entry.stream_id)[0] / 1000, UTC).date()
        assert isinstance(entry.event, ForwardEvent)
        counts.update((at, Status(code).name.lower()) for code in entry.event.status.tolist())
    totals: Counter[Any] = Counter()
    for (day, _), count in counts.items():
        totals[day] += count
    assert {
        (row["day"], row["statuses"]): (row["answers"], row["share"]) for row in await asked(archive, 1)
    } == {
        (day, status): (count, pytest.approx(count / totals[day])) for (day, status), count in counts.items()
    }


async def test_reward_against_latency(archive: Path) -> None:
    rewards: dict[int, list[float]] = defaultdict(list)
    for event, i in answers():
        if not math.isnan(event.rewards[i]):
            rewards[int(event.latency_s[i] * 2)].append(float(event.rewards[i]))
    assert {row["half_seconds"]: (row["answers"], row["mean_reward"]) for row in await asked(archive, 2)} == {
        half: (len(values), pytest.approx(sum(values) / len(values))) for half, values in rewards.items()
    }


def test_the_page_has_every_column_with_its_type() -> None:
    page = text("researchers.md")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE)
    assert [(name, kind) for name, kind in rows] == [(f.name, _said(f.type)) for f in SCHEMAS[EVENTS]]
    for table in (METAGRAPH, SUBMISSIONS):
        part = page.split(f"\n## {table}\n", 1)[1].split("\n## ", 1)[0]
        assert [name for name in SCHEMAS[table].names if f"`{name}`" not in part] == []


def _said(kind: pa.DataType) -> str:
    if pa.types.is_map(kind):
        return f"map of {_said(kind.key_type)} to {_said(kind.item_type)}"
    if pa.types.is_list(kind):
        return f"list of {_said(kind.value_type)}"
    if pa.types.is_struct(kind):
        return f"({', '.join(field.name for field in kind)})"
    return {"timestamp[ms, tz=UTC]": "timestamp, ms, UTC"}.get(str(kind), str(kind))
