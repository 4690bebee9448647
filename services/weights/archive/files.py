"""Where an archive lies: a folder, or a bucket of S3-compatible storage. A file is there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from coremesh.errors import BadSetting, Unavailable
from coremesh.settings import ArchiveSettings
from services.weights.archive.schema import META

T = TypeVar("T")
SINGLE_PUT_BYTES = 5 << 20
"""Less than this is one request whatever the client: S3 knows no smaller part of an upload."""


class ArchiveUnavailable(Unavailable):
    """The folder or the storage does not take or give a file."""

    code = "archive_unavailable"
    default_remedy = "Check archive.to, and that the folder or bucket can be written by this process."


@contextmanager
def told(what: str) -> Any:
    """Errors of the storage as ArchiveUnavailable."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise ArchiveUnavailable(f"cannot {what}: {said[:300]}") from error


class Files(Protocol):
    """Parquet files by their path below the archive's root. Blocking; every method raises ArchiveUnavailable."""

    @property
    def root(self) -> str:
        """Where they are."""
        ...

    def write(self, path: str, table: pa.Table, about: dict[str, Any]) -> None:
        """Write a file, or replace it, with ``about`` in its metadata."""
        ...

    def read(self, path: str) -> pa.Table:
        """All rows of a file."""
        ...

    def about(self, path: str) -> dict[str, Any]:
        """What was written beside a file's rows; empty for a file that is not of an archive."""
        ...

    def paths(self, folder: str) -> list[str]:
        """Every Parquet file below a folder, sorted."""
        ...


@dataclass(frozen=True, slots=True)
class ArrowFiles:
    """Files on one of Arrow's file systems."""

    root: str
    _system: pafs.FileSystem
    _base: str
    _local: bool

    def write(self, path: str, table: pa.Table, about: dict[str, Any]) -> None:
        """See Files."""
        metadata = {**(table.schema.metadata or {}), META: json.dumps(about).encode()}
        buffer = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
        with told(f"write {self.root}/{path}"):
            if self._local:
                _replace(Path(self._base) / path, buffer.getvalue())
            else:
                self._put(f"{self._base}/{path}", buffer.getvalue())

    def _put(self, path: str, content: pa.Buffer) -> None:
        """Arrow completes an upload in parts even after one of them failed, so that a truncated object is seen: what
        is larger than one request is put under another name first, and copied by the storage once it is whole."""
        whole = content.size < SINGLE_PUT_BYTES
        put = path if whole else f"{path}.tmp"
        with self._system.open_output_stream(put) as stream:
            stream.write(content)
        if not whole:
            self._system.move(put, path)

    def read(self, path: str) -> pa.Table:
        """See Files."""
        return self._with(path, lambda file: file.read())

    def about(self, path: str) -> dict[str, Any]:
        """See Files."""
        metadata = self._with(path, lambda file: file.schema_arrow.metadata or {})
        try:
            found = json.loads(metadata.get(META, b"{}"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def paths(self, folder: str) -> list[str]:
        """See Files."""
        selector = pafs.FileSelector(f"{self._base}/{folder}", allow_not_found=True, recursive=True)
        with told(f"list {self.root}/{folder}"):
            found = self._system.get_file_info(selector)
        start = len(self._base) + 1
        return sorted(
            info.path[start:]
            for info in found
            if info.type == pafs.FileType.File and info.path.endswith(".parquet")
        )

    def _with(self, path: str, read: Callable[[pq.ParquetFile], T]) -> T:
        with (
            told(f"read {self.root}/{path}"),
            self._system.open_input_file(f"{self._base}/{path}") as source,
        ):
            return read(pq.ParquetFile(source))


def _replace(path: Path, content: pa.Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def open_files(where: str, settings: ArchiveSettings) -> ArrowFiles:
    """The files of ``where``, a folder or ``s3://bucket/prefix``. Nothing is asked of the storage yet.

    Keys for S3 come from the AWS_* environment or the instance, as everywhere. Raises BadSetting.
    """
    if not where.startswith("s3://"):
        if "://" in where:
            raise BadSetting(
                f"{where} is neither a folder nor s3://bucket/prefix", remedy="Name one of these."
            )
        base = str(Path(where).expanduser().absolute())
        return ArrowFiles(base, pafs.LocalFileSystem(), base, True)
    scheme, _, host = settings.s3_endpoint.rpartition("://")
    try:
        system = pafs.S3FileSystem(
            region=settings.s3_region,
            scheme=scheme or "https",
            endpoint_override=host.rstrip("/") or None,
            connect_timeout=10.0,
            request_timeout=30.0,
            background_writes=False,
            allow_delayed_open=True,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=2),
        )
    except (OSError, pa.ArrowException) as error:
        raise BadSetting(f"S3 cannot be set up: {error}") from None
    return ArrowFiles(where.rstrip("/"), system, where[5:].strip("/"), False)
