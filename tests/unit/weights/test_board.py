"""wandb as a sink: the real library, offline, in its own process; and processes that die, hang or talk nonsense."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from coremesh.events import Transcript
from coremesh.history import Checkpoint
from coremesh.settings import WandbSettings, load
from coremesh.types import ORIGIN
from services.weights.board.sink import COMMAND, NAME, Sink
from tests.events import hotkey, make_event
from tests.fakes.history import MemoryHistory
from tests.wait import wait_until

QUESTION = "MARKERPROMPT: why is the sky blue?"
ANSWER = "MARKERCOMPLETION: because it is."


def settings(directory: Path, *flags: str) -> WandbSettings:
    words = ["--wandb.mode=offline", f"--wandb.directory={directory}", *flags]
    return load([WandbSettings], words)[WandbSettings]


@asynccontextmanager
async def sink(
    history: MemoryHistory, wanted: WandbSettings, command: Sequence[str] = COMMAND
) -> AsyncIterator[None]:
    made = Sink(
        history,
        wanted,
        name="1-5Valid",
        config={"netuid": 1},
        holder="me",
        wait=timedelta(milliseconds=20),
        backoff_s=0.05,
        command=command,
    )
    task = asyncio.create_task(made.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def happen(history: MemoryHistory, count: int) -> list[str]:
    """So many forwards; gives their ids."""
    ids: list[str] = []
    for n in range(count):
        event = make_event({1: 0.25, 2: 0.75 + n / 100, 3: None}, question=QUESTION)
        texts = Transcript(id=event.id, completions=(ANSWER, ANSWER, ""))
        await history.append(event, texts, [hotkey(uid) for uid in (1, 2, 3)])
        ids.append(event.id)
    return ids


async def told(history: MemoryHistory) -> None:
    async def all_of_it() -> bool:
        checkpoint = await history.load(NAME)
        return checkpoint is not None and checkpoint.last_id == await history.last_id()

    await wait_until(all_of_it, timeout=90, why="wandb was told of all events")


async def begun(history: MemoryHistory) -> None:
    """A place from which the sink goes on: the start."""
    lease = await history.acquire(NAME, "before", timedelta(seconds=60))
    assert lease is not None
    await history.save(NAME, Checkpoint(last_id=ORIGIN, state=b"", format="wandb/1"), lease, ORIGIN)
    await history.release(lease)


def runs(directory: Path) -> list[list[dict[str, Any]]]:
    """The rows of every run in the files, the oldest run first."""
    from wandb.proto import wandb_internal_pb2 as pb

    found: list[list[dict[str, Any]]] = []
    for file in sorted(directory.glob("wandb/offline-run-*/*.wandb"), key=lambda one: one.stat().st_mtime_ns):
        rows: list[dict[str, Any]] = []
        for packed in records(file.read_bytes()):
            record = pb.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(packed)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append(
                    {
                        "/".join(i.nested_key) if i.nested_key else i.key: json.loads(i.value_json)
                        for i in items
                    }
                )
        found.append(rows)
    return found


def records(packed: bytes) -> list[bytes]:
    """The records of a file in LevelDB's log format: after 7 bytes of its own, blocks of 32 KiB with parts of records,
    each behind a checksum (4 bytes), its length (2) and its kind (1): whole, first, middle, last."""
    found: list[bytes] = []
    at, begun = 7, b""
    while at + 7 <= len(packed):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", packed, at + 4)
        if kind == 0 or at + 7 + length > len(packed):
            break
        part = packed[at + 7 : at + 7 + length]
        begun = part if kind in (1, 2) else begun + part
        if kind in (1, 4):
            found.append(begun)
        at += 7 + length
    return found


def counted(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


@pytest.mark.timeout(200)
async def test_events_are_in_wandbs_own_files_and_the_next_leader_goes_on(tmp_path: Path) -> None:
    history = MemoryHistory()
    await begun(history)
    ids = await happen(history, 3)
    wanted = settings(tmp_path, "--wandb.run_events=2")
    async with sink(history, wanted):
        await told(history)
    ids += await happen(history, 2)
    async with sink(history, wanted):
        await told(history)
    # 2 and 1 by the first, then 2 by the one after it.
    await wait_until(lambda: sum(map(len, runs(tmp_path))) == 5, timeout=30)
    shown = runs(tmp_path)
    assert sorted(len(rows) for rows in shown) == [1, 2, 2]
    rows = {row["event_id"]: row for rows in shown for row in rows}
    assert sorted(rows) == sorted(ids)
    first = rows[ids[0]]
    own = {name: value for name, value in first.items() if not name.startswith("_")}
    (place,) = [e.stream_id for e in await history.read(ORIGIN, 1)]
    assert own == {
        "event_id": ids[0],
        "stream_id": place,
        "time_ms": 1_700_000_000_000,
        "block": 1,
        "kind": "answer",
        "asked": 3,
        "succeeded": 2,
        "reward/mean": 0.5,
        "reward/best": 0.25,
        "latency_s/median": pytest.approx(0.1),
        "best_uid": 1,
        "uids": [1, 2, 3],
        "hotkeys": [hotkey(1), hotkey(2), hotkey(3)],
        "statuses": ["ok", "ok", first["statuses"][2]],
        "latencies_s": [0.1, 0.1, 0.1],
        "rewards": [0.25, 0.75, None],
        "gating": [0.0, 0.0, 0.0],
        "head_version": 0,
        "stack_version": "",
        "stats_version": 0,
        "degraded": [],
        "trace_id": "",
        "parts/relevance": [0.25, 0.75, None],
    }
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"MARKER" not in everything


@pytest.mark.timeout(200)
async def test_texts_are_shown_where_they_are_wanted(tmp_path: Path) -> None:
    history = MemoryHistory()
    await begun(history)
    await happen(history, 1)
    async with sink(history, settings(tmp_path, "--wandb.texts=true")):
        await told(history)
    await wait_until(lambda: sum(map(len, runs(tmp_path))) == 1, timeout=30)
    ((row,),) = runs(tmp_path)
    assert row["prompt"] == [f"user: {QUESTION}"]
    assert row["completions"] == [ANSWER, ANSWER, ""]


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


HANGS = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()} '); time.sleep(600)"


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(3)",
        "print('nonsense', flush=True); import time; time.sleep(600)",
        "print('x' * 10**7, flush=True); import time; time.sleep(600)",
        'print(\'{"error": "no API key"}\', flush=True)',
    ],
)
async def test_a_process_that_fails_is_tried_again_and_nothing_is_lost(tmp_path: Path, code: str) -> None:
    history = MemoryHistory()
    await begun(history)
    await happen(history, 1)
    before = counted("coremesh_wandb_failures_total")
    async with sink(history, settings(tmp_path), python(code)):
        await wait_until(lambda: counted("coremesh_wandb_failures_total") >= before + 2, timeout=60)
    checkpoint = await history.load(NAME)
    assert checkpoint is not None
    assert checkpoint.last_id == ORIGIN


async def test_a_process_that_hangs_is_killed(tmp_path: Path) -> None:
    history = MemoryHistory()
    await begun(history)
    pids = tmp_path / "pids"
    async with sink(history, settings(tmp_path, "--wandb.timeout_s=0.5"), (*python(HANGS), str(pids))):
        await wait_until(lambda: pids.exists() and len(pids.read_text().split()) >= 2, timeout=60)
    await wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.read_text().split()))


async def test_our_secrets_are_not_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COREMESH_MESH_TOKEN", "secret")
    seen = tmp_path / "seen"
    code = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    history = MemoryHistory()
    async with sink(history, settings(tmp_path, "--wandb.key=abc"), (*python(code), str(seen))):
        await wait_until(lambda: seen.exists() and seen.read_text().endswith("}"), timeout=60)
    given = json.loads(seen.read_text())
    assert given["WANDB_API_KEY"] == "abc"
    assert given["PATH"] == os.environ["PATH"]
    assert not [name for name in given if name.startswith("COREMESH_")]


ANSWERS = "import sys\nfor line in sys.stdin: print('{}', flush=True)"


async def test_it_begins_with_what_happens_from_then_on(tmp_path: Path) -> None:
    history = MemoryHistory()
    await happen(history, 3)
    before = counted("coremesh_wandb_events_total")
    async with sink(history, settings(tmp_path), python(ANSWERS)):
        await told(history)
        await happen(history, 2)
        await wait_until(lambda: counted("coremesh_wandb_events_total") == before + 2)
        await told(history)


async def test_a_broken_event_is_passed_over(tmp_path: Path) -> None:
    history = MemoryHistory()
    await begun(history)
    before = counted("coremesh_wandb_events_total")
    async with sink(history, settings(tmp_path), python(ANSWERS)):
        await history.append(msgspec.structs.replace(make_event({1: 0.5}), latency_=b"123"), None, [])
        await history.append(msgspec.structs.replace(make_event({1: 0.5}), columns_={"a": b"w"}), None, [])
        await happen(history, 1)
        await told(history)
    assert counted("coremesh_wandb_events_total") == before + 2


async def test_trimming_does_not_wait_and_a_gap_is_counted(tmp_path: Path) -> None:
    history = MemoryHistory()
    await begun(history)
    await happen(history, 5)
    lease = await history.acquire("scores", "me", timedelta(seconds=60))
    assert lease is not None
    draft = Checkpoint(last_id=await history.last_id(), state=b"", format="f")
    await history.save("scores", draft, lease, ORIGIN)
    assert await history.trim(2, ("scores",)) == 3
    gaps, events = counted("coremesh_wandb_gaps_total"), counted("coremesh_wandb_events_total")
    async with sink(history, settings(tmp_path), python(ANSWERS)):
        await told(history)
    assert counted("coremesh_wandb_gaps_total") == gaps + 1
    assert counted("coremesh_wandb_events_total") == events + 2
