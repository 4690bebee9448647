"""The rotating event log: every forward on one line, once, whatever dies."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from coremesh.events import ForwardEvent
from coremesh.history.redis import RedisHistory
from coremesh.settings import ArchiveSettings
from coremesh.types import ORIGIN
from services.weights.archive.eventlog import NAME, EventLog, RotatingLog
from tests.events import make_event
from tests.fakes.history import MemoryHistory
from tests.integration.weights.test_archive import FragileHistory, Perishable, tell
from tests.integration.weights.test_every_await import end, story
from tests.wait import wait_until


class Torn(RotatingLog):
    """Dies with some of its lines written, the last one in part."""

    life: Perishable

    def append(self, lines: Any) -> None:
        self.life.die("before append")
        try:
            self.life.die("within append")
        except BaseException:
            super().append(lines[:1])
            with self.path.open("ab") as file:
                file.write(lines[-1][: len(lines[-1]) // 2])
            raise
        super().append(lines)
        self.life.die("after append")


def event_log(history: Any, folder: Path, holder: str, most_bytes: int = 10_000) -> EventLog:
    settings = ArchiveSettings(event_log_bytes=most_bytes, event_log_files=50)
    return EventLog(
        history,
        folder,
        settings,
        holder=holder,
        backoff_s=0.01,
        ttl=timedelta(milliseconds=150),
        wait=timedelta(milliseconds=10),
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    """Of all files, oldest first."""
    files = sorted(
        folder.glob("events.log*"), key=lambda file: -int(file.suffix.removeprefix(".log")[1:] or 0)
    )
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


async def logged(history: RedisHistory) -> bool:
    checkpoint = await history.load(NAME)
    return checkpoint is not None and checkpoint.last_id == await history.last_id()


async def test_killed_at_every_call_no_line_is_lost_or_doubled(
    redis_history: RedisHistory, tmp_path: Path
) -> None:
    points: set[str] = set()
    for at in range(1000):
        await redis_history._redis.flushall()
        await tell(redis_history, story())
        folder, life = tmp_path / str(at), Perishable(at)
        mortal = event_log(FragileHistory(redis_history, life), folder, f"first-{at}")
        mortal._lines = Torn(folder, 1500, 50)
        mortal._lines.life = life
        first = asyncio.create_task(mortal.run())

        async def over(first: asyncio.Task[None] = first) -> bool:
            return first.done() or await logged(redis_history)

        await wait_until(over, every=0.005)
        await end(first)
        if not life.killed:
            break
        points.add(life.points[at])
        await tell(redis_history, [make_event({5: 1.0})])
        await redis_history._redis.delete(redis_history.keys.lease(NAME))
        heir = asyncio.create_task(event_log(redis_history, folder, "heir").run())
        await wait_until(lambda: logged(redis_history), every=0.005, why=f"killed at {life.points[at]}")
        await end(heir)
        entries = await redis_history.read(ORIGIN, 100)
        wanted = [e.stream_id for e in entries if isinstance(e.event, ForwardEvent)]
        assert [line["stream_id"] for line in lines(folder)] == wanted, f"killed {life.points[at]}"
    assert {"before append", "within append", "after append", "after save"} <= points


async def test_a_line_says_what_the_first_validators_did(redis_history: RedisHistory, tmp_path: Path) -> None:
    event = make_event({3: 0.5, 4: None, 5: float("inf")}, question="Why?\n\u2028")
    await tell(redis_history, [event])
    running = asyncio.create_task(event_log(redis_history, tmp_path / "new", "me").run())
    await wait_until(lambda: logged(redis_history))
    await end(running)
    assert lines(tmp_path / "new") == [
        {
            "stream_id": await redis_history.last_id(),
            "event_id": event.id,
            "time_ms": 1_700_000_000_000,
            "block": 1,
            "kind": "answer",
            "prompt": "Why?\n\u2028",
            "messages": [["user", "Why?\n\u2028"]],
            "completion": "said 3",
            "uid": 3,
            "uids": [3, 4, 5],
            "hotkeys": ["5Hotkey0003", "5Hotkey0004", "5Hotkey0005"],
            "statuses": [0, 1, 0],
            "rewards": [0.5, None, None],
            "all_completions": ["said 3", "said 4", "said 5"],
        }
    ]


def test_rotation_keeps_so_many_bytes_in_so_many_files(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path, 100, 2)
    assert log.last_line() is None
    for n in range(12):
        log.append([b"%02d" % n + b"x" * 37 + b"\n"])
    # Two lines of 40 bytes fit; the oldest files are gone.
    assert {
        file.name: [line[:2] for line in file.read_text().splitlines()] for file in tmp_path.iterdir()
    } == {
        "events.log": ["10", "11"],
        "events.log.1": ["08", "09"],
        "events.log.2": ["06", "07"],
    }
    # A line over the bound still has a file of its own.
    log.append([b"y" * 300 + b"\n"])
    assert (tmp_path / "events.log").stat().st_size == 301
    # Killed between two renames: the current file is missing, and the place is in the one before.
    (tmp_path / "events.log").unlink()
    last = log.last_line()
    assert last is not None
    assert last[:2] == b"11"


def test_a_torn_line_is_cut_off_and_a_long_one_found(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path, 10_000_000, 1)
    log.append([b"a" * 10 + b"\n", b"b" * 3_000_000 + b"\n"])
    with (tmp_path / "events.log").open("ab") as file:
        file.write(b"torn")
    last = log.last_line()
    assert last == b"b" * 3_000_000
    assert (tmp_path / "events.log").stat().st_size == 11 + 3_000_001


def test_a_file_that_cannot_be_rotated_takes_nobody_elses_descriptor_along(tmp_path: Path) -> None:
    others: list[int] = []

    class Full(RotatingLog):
        def _rotate(self) -> None:
            others.append(
                os.open(tmp_path, os.O_RDONLY)
            )  # another thread's, with the number that is free now
            raise OSError(errno.ENOSPC, "no space left")

    log = Full(tmp_path, 10, 1)
    with pytest.raises(OSError, match="no space left"):
        log.append([b"x" * 9 + b"\n"] * 2)
    os.close(others.pop())  # still open


async def test_a_full_disk_shows_as_lag_and_is_tried_again_soon_after_a_better_time(tmp_path: Path) -> None:
    class Full(RotatingLog):
        full = False
        tries = 0

        def append(self, lines: Any) -> None:
            self.tries += 1
            if self.full:
                raise OSError(errno.ENOSPC, "no space left")
            super().append(lines)

    def lag_s() -> float | None:
        return REGISTRY.get_sample_value("coremesh_archive_lag_seconds", {"kind": "eventlog"})

    history = MemoryHistory()
    writer = event_log(history, tmp_path, "me")
    log = writer._lines = Full(tmp_path, 10_000, 1)
    running = asyncio.create_task(writer.run())
    for time in range(1, 11):
        log.full, log.tries = True, 0
        await history.append(make_event({1: 1.0}), None, [])
        await wait_until(lambda: log.tries >= 2)
        assert (lag_s() or 0.0) > 3600  # the fake's events are of 1970
        log.full = False
        # Were every failure so far still counted, it would be tried again in a minute by now.
        await wait_until(lambda time=time: len(lines(tmp_path)) == time)
        await wait_until(lambda: lag_s() == 0.0)
    await end(running)


@pytest.mark.parametrize("content", [b"no json\n", b'{"a": 1}\n', b'{"stream_id": "x"}\n', b"[]\n"])
async def test_a_file_of_something_else_is_left_alone(
    redis_history: RedisHistory, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "events.log").write_bytes(content)
    await tell(redis_history, [make_event({1: 1.0})])
    running = asyncio.create_task(event_log(redis_history, tmp_path, "me").run())

    def failures() -> float:
        return REGISTRY.get_sample_value("coremesh_archive_failures_total", {"kind": "eventlog"}) or 0.0

    before = failures()
    await wait_until(lambda: failures() > before)
    await end(running)
    assert (tmp_path / "events.log").read_bytes() == content
