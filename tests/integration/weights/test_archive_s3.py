"""The archive in S3-compatible storage, through pyarrow's own client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from prometheus_client import REGISTRY
from pyarrow.dataset import dataset

from coremesh.events import ForwardEvent
from coremesh.history.redis import RedisHistory
from coremesh.settings import ArchiveSettings
from coremesh.types import ORIGIN, new_event_id
from services.weights.archive.archiver import NAME
from services.weights.archive.files import ArchiveUnavailable, ArrowFiles, open_files
from services.weights.archive.reader import ParquetHistory
from tests.events import alike
from tests.fakes.s3 import FakeS3
from tests.integration.weights.test_archive import archive_all, archived_to, archiver, finished, rows_of, tell
from tests.integration.weights.test_every_await import end, story
from tests.wait import wait_until


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    with FakeS3() as fake:
        yield fake


def bucket(s3: FakeS3) -> ArrowFiles:
    return open_files("s3://bucket/some/prefix", ArchiveSettings(s3_endpoint=s3.endpoint))


async def test_an_archive_in_a_bucket_is_read_back(s3: FakeS3, redis_history: RedisHistory) -> None:
    await tell(redis_history, story(), submissions=2)
    files = bucket(s3)
    await archive_all(redis_history, files)
    entries, submissions = await rows_of(files)
    assert entries == alike(await redis_history.read(ORIGIN, 100))
    assert submissions == await redis_history.submissions(100)
    assert {name.split("/day=")[0] for name in s3.objects if name.endswith(".parquet")} == {
        f"bucket/some/prefix/{table}" for table in ("events", "metagraph", "submissions")
    }
    # Nothing was ever there in part: each file is one object, put or completed once.
    assert s3.uploads == {}


async def test_a_bucket_that_fails_is_counted_and_waited_for(s3: FakeS3, redis_history: RedisHistory) -> None:
    def failures() -> float:
        return REGISTRY.get_sample_value("coremesh_archive_failures_total", {"kind": "archive"}) or 0.0

    await tell(redis_history, story())
    files, before = bucket(s3), failures()
    s3.broken = True
    running = asyncio.create_task(archiver(redis_history, files, "me").run())
    await wait_until(lambda: failures() >= before + 1)
    assert await redis_history.trim(1, (NAME,)) == 0
    s3.broken = False
    last = await finished(redis_history)
    await wait_until(lambda: archived_to(redis_history, *last))
    await end(running)
    entries, _ = await rows_of(files)
    assert entries == alike(await redis_history.read(ORIGIN, 100))


@pytest.mark.parametrize("failing", ["?uploads", "partNumber=1&", "partNumber=2&", "?uploadId=", ""])
async def test_a_file_larger_than_one_request_is_there_whole_or_not_at_all(s3: FakeS3, failing: str) -> None:
    """Arrow completes an upload of which a part was refused, so a truncated file would be seen."""
    numbers = pa.table(
        {"x": np.random.default_rng(0).integers(0, 2**62, 2_000_000)}
    )  # 15 MB, past compressing
    files, path = bucket(s3), "events/day=2026-06-01/part-1-0-2-0.parquet"
    s3.fails = lambda method, address: method in ("PUT", "POST") and failing in address
    with pytest.raises(ArchiveUnavailable):
        files.write(path, numbers, {})
    assert files.paths("events") == []
    s3.fails = lambda _method, _address: False
    files.write(path, numbers, {})
    assert files.paths("events") == [path]
    assert files.read(path).equals(numbers)
    assert [name for name in s3.objects if "part-1" in name] == [f"bucket/some/prefix/{path}"]


async def test_an_empty_bucket_and_a_dead_endpoint_are_clear_errors(s3: FakeS3) -> None:
    with pytest.raises(ArchiveUnavailable, match="there is no archive in s3://bucket/some/prefix"):
        await ParquetHistory.open(bucket(s3), 1)
    dead = open_files("s3://bucket/x", ArchiveSettings(s3_endpoint="http://127.0.0.1:9"))
    with pytest.raises(ArchiveUnavailable, match="cannot list s3://bucket/x/events"):
        await ParquetHistory.open(dead, 1)


@pytest.mark.skipif(
    "COREMESH_TEST_S3" not in os.environ, reason="tests/s3.sh starts a storage to test against"
)
async def test_a_storage_that_is_not_our_own_double(
    redis_history: RedisHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COREMESH_TEST_S3 is its address; it must have the bucket ``coremesh``, and keys in the AWS_* environment."""
    endpoint = os.environ["COREMESH_TEST_S3"]
    prefix = f"run-{new_event_id()}"
    files = open_files(f"s3://coremesh/{prefix}", ArchiveSettings(s3_endpoint=endpoint))
    await tell(redis_history, story(), submissions=2)
    await archive_all(redis_history, files)
    entries, submissions = await rows_of(files)
    assert entries == await redis_history.read(ORIGIN, 100)
    assert submissions == await redis_history.submissions(100)
    large = pa.table({"x": np.random.default_rng(0).integers(0, 2**62, 2_000_000)})
    files.write("large/part-1-0-2-0.parquet", large, {"rows": 2_000_000})
    assert files.read("large/part-1-0-2-0.parquet").equals(large)
    assert files.about("large/part-1-0-2-0.parquet") == {"rows": 2_000_000}
    forwards = sum(isinstance(entry.event, ForwardEvent) for entry in entries)
    options = {
        "aws_endpoint_url": endpoint,
        "aws_region": "us-east-1",
        "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "aws_allow_http": "true",
    }
    found = pl.scan_parquet(f"s3://coremesh/{prefix}/events/**/*.parquet", storage_options=options)
    assert found.select(pl.len()).collect().item() == forwards
    system = pafs.S3FileSystem(endpoint_override=endpoint.rpartition("//")[2], scheme="http")
    events = dataset(f"coremesh/{prefix}/events", filesystem=system, format="parquet", partitioning="hive")
    with duckdb.connect() as sql:
        sql.register("events", events)
        assert sql.execute("select count(*) from events").fetchall() == [(forwards,)]
