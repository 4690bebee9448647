"""The archiver on a real Redis: every row once, whatever dies, and the same history when read back."""

from __future__ import annotations

import asyncio
import itertools
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from prometheus_client import REGISTRY

from coremesh.events import Event, ForwardEvent, Transcript
from coremesh.history import Entry, Lease, Submission
from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph
from coremesh.settings import ArchiveSettings
from coremesh.types import ORIGIN, stream_key
from services.weights import scores
from services.weights.archive.archiver import NAME, Archiver
from services.weights.archive.files import ArchiveUnavailable, ArrowFiles, Files, open_files
from services.weights.archive.reader import Joined, ParquetHistory
from services.weights.rules import SoftmaxEma
from services.weights.scores import ScoreState
from tests.events import alike, make_event
from tests.integration.weights.test_every_await import Killed, end, story
from tests.wait import wait_until


async def tell(history: RedisHistory, events: list[Event], submissions: int = 0) -> None:
    lease = await history.acquire("teller", "teller", timedelta(seconds=30))
    assert isinstance(lease, Lease)
    for event in events:
        if isinstance(event, ForwardEvent):
            texts = Transcript(id=event.id, completions=tuple(f"said {uid}" for uid in event.uids))
            await history.append(event, texts, [f"5Hotkey{uid:04d}" for uid in event.uids])
        else:
            await history.publish(Metagraph(netuid=1, block=1, time_ms=0, neurons=()), event, lease)
    for n in range(submissions):
        await history.submit(
            Submission(
                id=f"id{n}",
                time_ms=n,
                block=n,
                netuid=1,
                hotkey="5Validator",
                uids=(1, 2),
                weights=(0.25, 0.75),
                values=(21845, 65535),
                last_id="1-0",
                result="landed",
            ),
            lease,
        )


class Perishable:
    """A history or files whose caller dies at one of the calls to any of them, before or after it took effect."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._calls = itertools.count()
        self.killed = False
        self.points: list[str] = []

    def die(self, what: str) -> None:
        point = next(self._calls)
        self.points.append(what)
        # A dead process makes no further call either.
        if self.killed or point == self._at:
            self.killed = True
            raise Killed


class FragileHistory:
    def __init__(self, history: RedisHistory, life: Perishable) -> None:
        self._history, self._life = history, life

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._history, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._life.die(f"before {name}")
            result = await method(*args, **kwargs)
            self._life.die(f"after {name}")
            return result

        return call


class FragileFiles:
    def __init__(self, files: Files, life: Perishable) -> None:
        self._files, self._life = files, life
        self.root = files.root

    def write(self, path: str, table: pa.Table, about: dict[str, Any]) -> None:
        self._life.die("before write")
        self._files.write(path, table, about)
        self._life.die("after write")

    def read(self, path: str) -> pa.Table:
        return self._files.read(path)

    def about(self, path: str) -> dict[str, Any]:
        return self._files.about(path)

    def paths(self, folder: str) -> list[str]:
        self._life.die("before paths")
        return self._files.paths(folder)


def archiver(history: Any, files: Any, holder: str, ttl_ms: int = 150, **settings: Any) -> Archiver:
    wanted = ArchiveSettings(**{"part_rows": 3, "part_s": 0.05, "timeout_s": 5.0, "texts": True, **settings})
    return Archiver(
        history,
        files,
        wanted,
        netuid=1,
        holder=holder,
        backoff_s=0.01,
        ttl=timedelta(milliseconds=ttl_ms),
        wait=timedelta(milliseconds=10),
    )


def local(folder: Path) -> ArrowFiles:
    return open_files(str(folder), ArchiveSettings())


async def archived_to(history: RedisHistory, last: str, submissions: str = ORIGIN) -> bool:
    checkpoint = await history.load(NAME)
    if checkpoint is None or checkpoint.last_id != last:
        return False
    place, intent = msgspec.msgpack.decode(checkpoint.state)
    return intent is None and stream_key(place) >= stream_key(submissions)


async def rows_of(files: Files) -> tuple[list[Entry], list[Any]]:
    """All rows of all files, as any reader of the folder sees them, duplicates too."""
    whole = await ParquetHistory.open(files, 1)
    assert whole.gap is None
    found = await whole.read(ORIGIN, 1_000_000)
    entries = list(found)
    while found:
        found = await whole.read(entries[-1].stream_id, 1_000_000)
        entries += found
    rows = sum(files.read(path).num_rows for table in ("events", "metagraph") for path in files.paths(table))
    assert rows == len(entries)
    return entries, await whole.submissions(1000)


async def finished(history: RedisHistory) -> tuple[str, str]:
    submissions = await history.submissions(1)
    return await history.last_id(), submissions[0].stream_id if submissions else ORIGIN


async def archive_all(history: RedisHistory, files: Any) -> None:
    """Archive until all that is in the history is in ``files``."""
    running = asyncio.create_task(archiver(history, files, "me").run())
    last = await finished(history)
    await wait_until(lambda: archived_to(history, *last))
    await end(running)


async def test_killed_at_every_call_no_row_is_lost_or_doubled(
    redis_history: RedisHistory, tmp_path: Path
) -> None:
    kills, points = 0, set()
    for at in range(1000):
        await redis_history._redis.flushall()
        await tell(redis_history, story(), submissions=2)
        truth = alike(await redis_history.read(ORIGIN, 1000)), await redis_history.submissions(100)
        last = await finished(redis_history)
        files, life = local(tmp_path / str(at)), Perishable(at)
        mortal = archiver(FragileHistory(redis_history, life), FragileFiles(files, life), f"first-{at}")
        first = asyncio.create_task(mortal.run())

        async def over(first: asyncio.Task[None] = first, last: tuple[str, str] = last) -> bool:
            return first.done() or await archived_to(redis_history, *last)

        await wait_until(over, every=0.005)
        done = await archived_to(redis_history, *last)
        await end(first)
        if not life.killed:
            assert done
            break
        kills += 1
        points |= {life.points[at]}
        # More has happened until somebody takes over: a part begun anew would have another range.
        await tell(redis_history, [make_event({5: 1.0})], submissions=1)
        truth = alike(await redis_history.read(ORIGIN, 1000)), await redis_history.submissions(100)
        last = await finished(redis_history)
        await redis_history._redis.delete(
            redis_history.keys.lease(NAME)
        )  # instead of waiting until it expires
        heir = asyncio.create_task(archiver(redis_history, files, "heir").run())
        await wait_until(
            lambda last=last: archived_to(redis_history, *last), every=0.005, why=f"killed at {at}"
        )
        await end(heir)
        entries, submissions = await rows_of(files)
        assert (entries, submissions) == truth, f"killed at call {at}, {life.points[at]}"
    assert {"after write", "before write", "before save", "after save"} <= points
    assert kills > 30


async def test_what_is_read_back_is_the_history_and_folds_to_the_same_bits(
    redis_history: RedisHistory, tmp_path: Path
) -> None:
    events = [*story(), *(make_event({n % 7: 0.1 * n, 9: None, 8: 1.0}) for n in range(40)), *story()]
    await tell(redis_history, events, submissions=3)
    files = local(tmp_path / "archive")
    running = asyncio.create_task(archiver(redis_history, files, "me", part_rows=11).run())
    last = await finished(redis_history)
    await wait_until(lambda: archived_to(redis_history, *last))
    await end(running)
    entries, submissions = await rows_of(files)
    assert entries == alike(await redis_history.read(ORIGIN, 1000))
    assert submissions == await redis_history.submissions(100)
    archive = await ParquetHistory.open(files, 1)
    assert (await archive.last_id(), await archive.length(), await archive.trimmed()) == (last[0], 54, ORIGIN)
    a, b = ([entry.event for entry in found] for found in (entries, await redis_history.read(ORIGIN, 1000)))
    assert scores.dump(scores.fold(ScoreState(), a, SoftmaxEma())) == scores.dump(
        scores.fold(ScoreState(), b, SoftmaxEma())
    )
    digest = int(events[0].hotkeys[0])  # type: ignore[union-attr]
    await archive.read(ORIGIN, 1)
    assert await archive.resolve([digest, 17]) == await redis_history.resolve([digest, 17])
    (path, *_) = files.paths("events")
    table = files.read(path)
    assert table.column("completions").to_pylist()[0] == [
        f"said {u}" for u in table.column("uids")[0].as_py()
    ]
    assert path.split("/")[0:2] == ["events", f"day={_today(entries[0])}"]
    assert path.endswith(f"part-{table['stream_id'][0]}-{table['stream_id'][-1]}.parquet")
    assert list((tmp_path / "archive").rglob("*.tmp")) == []


def _today(entry: Entry) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(stream_key(entry.stream_id)[0] / 1000, UTC).strftime("%Y-%m-%d")


async def test_trimming_waits_for_the_archive_and_both_together_are_whole(
    redis_history: RedisHistory, tmp_path: Path
) -> None:
    await tell(redis_history, story())
    assert await redis_history.trim(1, (NAME,)) == 0
    files = local(tmp_path)
    running = asyncio.create_task(archiver(redis_history, files, "me").run())
    before, last = await redis_history.read(ORIGIN, 100), await finished(redis_history)
    await wait_until(lambda: archived_to(redis_history, *last))
    await end(running)
    assert await redis_history.trim(1, (NAME,)) == 6
    await tell(redis_history, [make_event({1: 1.0}), make_event({2: 1.0})])
    assert await redis_history.trim(1, (NAME,)) == 1
    joined = Joined(await ParquetHistory.open(files, 1), redis_history)
    assert await joined.trimmed() == ORIGIN
    read, at = [], ORIGIN
    while page := await joined.read(at, 4):
        read += page
        at = page[-1].stream_id
    after = await redis_history.read(before[-1].stream_id, 100)
    assert alike(read) == alike(before + after)
    # Without the archive's hold the store may be trimmed beyond its end: then the store alone counts.
    await redis_history.trim(1, ())
    assert await joined.trimmed() == await redis_history.trimmed() != ORIGIN


async def test_a_gap_is_counted_said_and_never_papered_over(
    redis_history: RedisHistory, tmp_path: Path
) -> None:
    files = local(tmp_path)
    for _ in range(2):
        await tell(redis_history, story())
        running = asyncio.create_task(archiver(redis_history, files, "me").run())
        last = await finished(redis_history)
        await wait_until(lambda last=last: archived_to(redis_history, *last))
        await end(running)
        await tell(redis_history, [make_event({1: 1.0}), make_event({1: 1.0})])
        await redis_history.trim(1, ())
    archive = await ParquetHistory.open(files, 1)
    assert archive.gap is not None
    assert await archive.trimmed() != ORIGIN
    entries = await archive.read(ORIGIN, 100)
    assert stream_key(entries[0].stream_id) > stream_key(await archive.trimmed())
    assert REGISTRY.get_sample_value("coremesh_archive_gaps_total", {"kind": "archive"}) >= 1.0  # type: ignore[operator]


async def test_a_lost_file_is_noticed(redis_history: RedisHistory, tmp_path: Path) -> None:
    await tell(redis_history, story())
    files = local(tmp_path)
    await archive_all(redis_history, files)
    (tmp_path / files.paths("metagraph")[0]).unlink()
    archive = await ParquetHistory.open(files, 1)
    assert archive.gap is not None
    assert archive.gap.startswith("1 events up to ")
    assert await archive.trimmed() != ORIGIN


async def test_another_archive_in_the_same_place_goes_on_where_that_one_ends(
    redis_history: RedisHistory, tmp_path: Path
) -> None:
    await tell(redis_history, story(), submissions=2)
    files = local(tmp_path / "one")
    await archive_all(redis_history, files)
    (tmp_path / "one").rename(tmp_path / "two")
    await tell(redis_history, story(), submissions=1)
    files = local(tmp_path / "two")
    await archive_all(redis_history, files)
    entries, submissions = await rows_of(files)
    assert entries == alike(await redis_history.read(ORIGIN, 100))
    assert submissions == await redis_history.submissions(100)


async def test_a_storage_that_is_away_is_counted_and_waited_for(
    redis_history: RedisHistory, tmp_path: Path
) -> None:
    await tell(redis_history, story())
    blocked = tmp_path / "archive"
    blocked.write_text("a file where the folder should be")

    def failures() -> float:
        return REGISTRY.get_sample_value("coremesh_archive_failures_total", {"kind": "archive"}) or 0.0

    before = failures()
    files = local(blocked)
    running = asyncio.create_task(archiver(redis_history, files, "me").run())
    await wait_until(lambda: failures() >= before + 2)
    # Meanwhile nobody waits for it but the trimming.
    assert await redis_history.trim(1, (NAME,)) == 0
    blocked.unlink()
    last = await finished(redis_history)
    await wait_until(lambda: archived_to(redis_history, *last))
    await end(running)
    entries, _ = await rows_of(files)
    assert entries == alike(await redis_history.read(ORIGIN, 100))


async def test_foreign_files_and_other_subnets_are_refused(
    redis_history: RedisHistory, tmp_path: Path
) -> None:
    files = local(tmp_path)
    with pytest.raises(ArchiveUnavailable, match="there is no archive in"):
        await ParquetHistory.open(files, 1)
    files.write("events/x.parquet", pa.table({"a": [1]}), {"format": "another"})
    with pytest.raises(ArchiveUnavailable, match="is not a file of"):
        await ParquetHistory.open(files, 1)
    await tell(redis_history, story())
    (tmp_path / "events/x.parquet").unlink()
    await archive_all(redis_history, files)
    with pytest.raises(ArchiveUnavailable, match="is of subnet 1, not 2"):
        await ParquetHistory.open(files, 2)


async def test_two_archivers_write_one_archive(redis_history: RedisHistory, tmp_path: Path) -> None:
    files = local(tmp_path)
    running = [asyncio.create_task(archiver(redis_history, files, f"n{n}").run()) for n in range(2)]
    for _ in range(4):
        await tell(redis_history, story())
        await redis_history._redis.delete(redis_history.keys.lease(NAME))  # whoever is first takes over
        await asyncio.sleep(0)
    last = await finished(redis_history)
    await wait_until(lambda: archived_to(redis_history, *last))
    for one in running:
        await end(one)
    entries, _ = await rows_of(files)
    assert entries == alike(await redis_history.read(ORIGIN, 100))


async def test_a_storage_that_never_answers_holds_one_thread_and_no_loop(
    redis_history: RedisHistory, tmp_path: Path
) -> None:
    answer, begun = threading.Event(), []

    class Hanging(FragileFiles):
        def write(self, path: str, table: pa.Table, about: dict[str, Any]) -> None:
            begun.append(path)
            answer.wait(30)
            self._files.write(path, table, about)

    def failures() -> float:
        return REGISTRY.get_sample_value("coremesh_archive_failures_total", {"kind": "archive"}) or 0.0

    await tell(redis_history, story())
    files = local(tmp_path)
    hanging = Hanging(files, Perishable(-1))
    mine = archiver(redis_history, hanging, "me", ttl_ms=10_000, part_rows=100, timeout_s=0.4)
    running = asyncio.create_task(mine.run())
    await wait_until(lambda: begun)
    before = failures()
    await wait_until(lambda: failures() >= before + 2)
    assert len(begun) == 1
    answer.set()
    last = await finished(redis_history)
    await wait_until(lambda: archived_to(redis_history, *last))
    await end(running)
    entries, _ = await rows_of(files)
    assert entries == alike(await redis_history.read(ORIGIN, 100))
