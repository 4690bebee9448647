"""No event is lost while Redis is away, and none is counted twice when it is back."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from coremesh.errors import HistoryUnavailable
from coremesh.events import ForwardEvent, Transcript
from coremesh.history.recorder import DRAIN_BATCH, Recorder
from coremesh.history.redis import RedisHistory
from coremesh.history.spool import Spool, Spooled, SpoolFull
from coremesh.types import ORIGIN, StreamId, new_event_id
from tests.events import hotkey, make_event
from tests.fakes.history import MemoryHistory
from tests.redis_server import RedisServer
from tests.wait import wait_until


@pytest.fixture
def server() -> Iterator[RedisServer]:
    directory = Path(tempfile.mkdtemp(prefix="coremesh-redis-"))
    server = RedisServer(directory)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(directory, ignore_errors=True)


async def test_events_wait_on_disk_and_come_home_once(server: RedisServer, tmp_path: Path) -> None:
    history = RedisHistory(server.url, 1, timeout=timedelta(seconds=1))
    outcomes: list[str] = []
    spool = Spool(tmp_path / "spool")
    recorder = Recorder(history, spool, retry_every=timedelta(milliseconds=50), on_recorded=outcomes.append)
    events = [make_event({1: 0.5}) for _ in range(6)]
    await recorder.record(events[0], None, [hotkey(1)])
    server.kill()
    for event in events[1:5]:
        await recorder.record(event, Transcript(id=event.id, completions=("text",)), [hotkey(1)])
    assert recorder.waiting == 4
    assert outcomes == ["appended"] + ["spooled"] * 4

    # The process dies here: a new one finds the same files, and one event had been appended already.
    server.start()
    await history.append(events[1], None, [hotkey(1)])
    again = Recorder(history, Spool(tmp_path / "spool"), retry_every=timedelta(milliseconds=50))
    assert again.waiting == 4
    running = asyncio.create_task(again.run())
    await wait_until(lambda: again.waiting == 0)
    await again.record(events[5], None, [hotkey(1)])
    entries = await history.read(ORIGIN, 100)
    assert sorted(entry.event.id for entry in entries) == sorted(event.id for event in events)
    found = await history.transcript(events[4].id)
    assert found is not None
    assert found.completions == ("text",)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await history.close()


async def test_texts_that_came_home_late_are_found_without_reading_all_the_others(
    server: RedisServer,
) -> None:
    history = RedisHistory(server.url, 1)
    then_ms = time.time_ns() // 1_000_000 - 600_000
    events = [make_event({1: 0.5}, event_id=new_event_id(then_ms + n)) for n in range(500)]
    for event in events:
        await history.append(event, Transcript(id=event.id, completions=("text",)), [hotkey(1)])
    with redis.Redis.from_url(server.url) as client:
        client.config_resetstat()
        assert await history.transcript(events[-1].id) is not None
        assert client.info("commandstats")["cmdstat_xrange"]["calls"] <= 2
    await history.close()


async def test_a_redis_that_hangs_is_not_waited_for_and_what_it_took_counts_once(
    server: RedisServer, tmp_path: Path
) -> None:
    history = RedisHistory(server.url, 1, timeout=timedelta(seconds=30))
    recorder = Recorder(
        history,
        Spool(tmp_path / "spool"),
        patience=timedelta(milliseconds=300),
        retry_every=timedelta(milliseconds=50),
    )
    events = [make_event({1: 0.5}) for _ in range(4)]
    await recorder.record(events[0], None, [hotkey(1)])
    server.pause()
    # Redis has these in its sockets, and takes them when it goes on; they are on the disk by then.
    await asyncio.gather(*(recorder.record(event, None, [hotkey(1)]) for event in events[1:]))
    assert recorder.waiting == 3
    server.resume()
    running = asyncio.create_task(recorder.run())
    await wait_until(lambda: recorder.waiting == 0)
    entries = await history.read(ORIGIN, 100)
    assert sorted(entry.event.id for entry in entries) == sorted(event.id for event in events)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await history.close()


def test_the_spool_is_bounded(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_events=2)
    kept = [Spooled(make_event({1: 0.5}), None, []) for _ in range(3)]
    spool.put(kept[0])
    spool.put(kept[1])
    with pytest.raises(SpoolFull):
        spool.put(kept[2])
    spool.drop(kept[0].event.id)
    spool.put(kept[2])
    assert [s.event.id for s in spool.oldest(10)] == sorted([kept[1].event.id, kept[2].event.id])
    tiny = Spool(tmp_path / "tiny", max_bytes=10)
    with pytest.raises(SpoolFull):
        tiny.put(kept[0])


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    good = Spooled(make_event({1: 0.5}), None, [])
    spool.put(good)
    (tmp_path / "00000000000000000000000000.event").write_bytes(b"\xff\x00garbage")
    again = Spool(tmp_path)
    assert len(again) == 2
    assert again.oldest(10) == [good]
    assert (len(again), again.set_aside) == (1, 1)
    assert Spool(tmp_path).set_aside == 1
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".unreadable", ".event"]


def test_files_that_somebody_took_away_are_no_longer_waited_for(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for _ in range(3):
        spool.put(Spooled(make_event({1: 0.5}), None, []))
    for path in tmp_path.glob("*.event"):
        path.unlink()
    assert spool.oldest(10) == []
    assert len(spool) == 0
    spool.put(Spooled(make_event({1: 0.5}), None, []))
    assert len(spool) == 1


def test_what_does_not_get_onto_the_disk_leaves_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        spool.put(Spooled(make_event({1: 0.5}), None, []))
    assert (len(spool), list(tmp_path.iterdir())) == (0, [])
    # Killed while it wrote:
    (tmp_path / "00000000000000000000000000.draft").write_bytes(b"half")
    assert (len(Spool(tmp_path)), list(tmp_path.iterdir())) == (0, [])


async def test_a_disk_that_fails_ends_nothing_and_is_tried_again(tmp_path: Path) -> None:
    class Failing(Spool):
        fails = 3

        def drop(self, event_id: str) -> None:
            self.fails -= 1
            if self.fails >= 0:
                raise OSError(errno.EROFS, "read-only file system")
            super().drop(event_id)

    history, spool = MemoryHistory(), Failing(tmp_path)
    spool.put(Spooled(make_event({1: 0.5}), None, []))
    recorder = Recorder(history, spool, retry_every=timedelta(milliseconds=5))
    running = asyncio.create_task(recorder.run())
    await wait_until(lambda: running.done() or recorder.waiting == 0)
    assert not running.done()
    assert await history.length() == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class ReadOnly(Spool):
    """On a disk that takes no change any more."""

    read_only = False

    def put(self, spooled: Spooled) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "read-only file system")
        super().put(spooled)

    def drop(self, event_id: str) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "read-only file system")
        super().drop(event_id)


async def test_a_disk_that_became_read_only_loses_no_event_while_redis_is_there(tmp_path: Path) -> None:
    history, spool = MemoryHistory(), ReadOnly(tmp_path)
    before = [make_event({1: 0.5}) for _ in range(DRAIN_BATCH + 3)]
    for event in before:
        spool.put(Spooled(event, None, []))
    spool.read_only = True
    recorder = Recorder(history, spool, retry_every=timedelta(milliseconds=5))
    # Before anything is drained, and after.
    early = make_event({1: 0.5})
    await recorder.record(early, None, [])
    running = asyncio.create_task(recorder.run())
    await wait_until(lambda: recorder.waiting == 0)
    late = make_event({1: 0.5})
    await recorder.record(late, None, [])
    found = [entry.event.id for entry in await history.tail(1000)]
    assert sorted(found) == sorted(event.id for event in (*before, early, late))
    # And the disk is mended: the files go, and nothing comes twice.
    spool.read_only = False
    await wait_until(lambda: len(spool) == 0)
    assert await history.length() == len(found)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_file_that_the_disk_does_not_give_keeps_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, spool = MemoryHistory(), Spool(tmp_path)
    events = [make_event({1: 0.5}) for _ in range(3)]
    for event in events:
        spool.put(Spooled(event, None, []))
    bad = sorted(event.id for event in events)[0]
    read_bytes, works = Path.read_bytes, False

    def read(path: Path) -> bytes:
        if path.stem == bad and not works:
            raise OSError(errno.EIO, "input/output error")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    recorder = Recorder(history, spool, retry_every=timedelta(milliseconds=5))
    assert (recorder.waiting, recorder.set_aside) == (3, 0)
    running = asyncio.create_task(recorder.run())
    await wait_until(lambda: recorder.waiting == 0 and recorder.set_aside == 1)
    later = make_event({1: 0.5})
    await recorder.record(later, None, [])
    good = sorted(event.id for event in (*events, later) if event.id != bad)
    await wait_until(lambda: same(history, good))
    # The disk is mended, and it comes home by itself.
    works = True
    await wait_until(lambda: same(history, sorted([*good, bad])))
    await wait_until(lambda: (recorder.waiting, recorder.set_aside, list(tmp_path.iterdir())) == (0, 0, []))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def same(history: MemoryHistory, ids: list[str]) -> bool:
    return sorted(entry.event.id for entry in await history.tail(100)) == ids


def test_what_is_damaged_on_a_read_only_disk_keeps_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Spooled(make_event({1: 0.5}), None, [])
    Spool(tmp_path).put(good)
    (tmp_path / "00000000000000000000000000.event").write_bytes(b"garbage")

    def read_only(path: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(Path, "rename", read_only)
    spool = Spool(tmp_path)
    assert spool.oldest(1) == [good]
    assert (len(spool), spool.set_aside) == (1, 1)


def test_what_the_process_lacks_says_nothing_about_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.put(Spooled(make_event({1: 0.5}), None, []))

    def none_left(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(Path, "read_bytes", none_left)
    with pytest.raises(OSError, match="too many open files"):
        spool.oldest(10)
    assert (len(spool), spool.set_aside) == (1, 0)


async def test_an_event_that_fits_nowhere_is_told(tmp_path: Path) -> None:
    class Away(MemoryHistory):
        async def append(
            self, event: ForwardEvent, transcript: Transcript | None, hotkeys: list[str]
        ) -> StreamId:
            raise HistoryUnavailable("Redis is away")

    spool = Spool(tmp_path, max_events=1)
    recorder = Recorder(Away(), spool)
    await recorder.record(make_event({1: 0.5}), None, [])
    with pytest.raises(SpoolFull):
        await recorder.record(make_event({1: 0.5}), None, [])


async def test_an_id_is_remembered_for_as_long_as_it_is_sent_again(server: RedisServer) -> None:
    history = RedisHistory(server.url, 1)
    event = make_event({1: 0.5})
    await history.append(event, None, [])
    with redis.Redis.from_url(server.url) as client:
        (seen,) = client.keys("*seen:*")
        client.expire(seen, 60)
        await history.append(event, None, [])
        assert client.ttl(seen) > 3600
    assert await history.length() == 1
    await history.close()


async def test_what_a_process_left_behind_that_was_away_for_days_counts_once(
    server: RedisServer, tmp_path: Path
) -> None:
    history = RedisHistory(server.url, 1)
    now_ms, day_ms = time.time_ns() // 1_000_000, 24 * 3_600_000
    old = [make_event({1: 0.5}, event_id=new_event_id(now_ms - (4 + n) * day_ms)) for n in range(3)]
    young = make_event({1: 0.5})
    # It was killed when Redis had the first, and before the file was deleted. Its id is forgotten since.
    await history.append(old[0], None, [])
    spool = Spool(tmp_path)
    for event in (*old, young):
        spool.put(Spooled(event, None, []))
    with redis.Redis.from_url(server.url) as client:
        client.delete(*client.keys("*seen:*"))
        # Events of the time of the last are trimmed, and perhaps it with them.
        client.set(history.keys.trimmed, f"{now_ms - 6 * day_ms + 1}-0")
    recorder = Recorder(history, spool)
    await recorder.drain()
    found = [entry.event.id for entry in await history.read(ORIGIN, 100)]
    assert sorted(found) == sorted([old[0].id, old[1].id, young.id])
    assert [path.name for path in tmp_path.iterdir()] == [f"{old[2].id}.unsure"]
    assert (recorder.waiting, recorder.set_aside) == (0, 1)
    await history.close()


def test_an_id_that_is_no_ulid_never_names_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        Spool(tmp_path).put(Spooled(make_event({1: 0.5}, event_id="../../../../tmp/x"), None, []))
