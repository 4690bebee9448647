"""Texts from a folder of .txt, .md, .jsonl and .parquet files."""

from __future__ import annotations

import importlib.util
import json
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import structlog

log = structlog.get_logger(__name__)

PLAIN = (".txt", ".md")
LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
MAX_FILES = 100_000
MAX_LINE_BYTES = 1 << 20
MAX_TEXT_CHARS = 16_000
SHUFFLED = 512
"""Texts mixed at a time: neighbours in a file are often alike."""


def has_pyarrow() -> bool:
    """Whether Parquet files can be read."""
    return importlib.util.find_spec("pyarrow") is not None


def has_parquet(folder: Path) -> bool:
    """Whether there is a Parquet file among those that would be read."""
    return any(path.suffix == PARQUET for path in _files(folder))


def read_folder(folder: Path, field: str, *, seed: int | None = None) -> Iterator[str]:
    """One pass over the folder: every text of at most MAX_TEXT_CHARS, files and neighbours in random order.

    Plain files are read by paragraph, the others by row, whose ``field`` is the text. A file that cannot be
    read is left out. Raises OSError without the folder.
    """
    chance = random.Random(seed)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")
    files = list(_files(folder))
    chance.shuffle(files)
    yield from shuffled((text for path in files for text in _texts(path, field)), chance)


def shuffled(texts: Iterable[str], chance: random.Random) -> Iterator[str]:
    """``texts`` in another order, SHUFFLED of them in memory."""
    held: list[str] = []
    for text in texts:
        if len(held) < SHUFFLED:
            held.append(text)
            continue
        place = chance.randrange(SHUFFLED)
        held[place], text = text, held[place]
        yield text
    chance.shuffle(held)
    yield from held


def text_of(row: Any, field: str) -> str | None:
    """The text of a row: ``field`` of an object, or the row itself."""
    found = row.get(field) if isinstance(row, dict) else row
    return found[:MAX_TEXT_CHARS] if isinstance(found, str) and found.strip() else None


def _files(folder: Path) -> Iterator[Path]:
    left = MAX_FILES
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(".") and Path(name).suffix in (*PLAIN, *LINES, PARQUET):
                left -= 1
                if left < 0:
                    return
                yield Path(parent) / name


def _texts(path: Path, field: str) -> Iterator[str]:
    try:
        if path.suffix == PARQUET:
            yield from _parquet(path, field)
            return
        with path.open("rb") as file:
            yield from _paragraphs(file) if path.suffix in PLAIN else _rows(file, field)
    except Exception as error:  # pyarrow has errors of its own
        log.warning("file left out", file=path.name, reason=str(error)[:300])


def _lines(file: IO[bytes]) -> Iterator[str]:
    """Lines; what is longer than MAX_LINE_BYTES is left out."""
    while line := file.readline(MAX_LINE_BYTES):
        if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            continue
        yield line.decode("utf-8", "replace")


def _paragraphs(file: IO[bytes]) -> Iterator[str]:
    lines: list[str] = []
    chars = 0
    for line in _lines(file):
        if line.strip():
            if chars < MAX_TEXT_CHARS:
                lines.append(line)
                chars += len(line)
            continue
        if lines:
            yield "".join(lines)[:MAX_TEXT_CHARS].strip()
        lines, chars = [], 0
    if lines:
        yield "".join(lines)[:MAX_TEXT_CHARS].strip()


def _rows(file: IO[bytes], field: str) -> Iterator[str]:
    for line in _lines(file):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        text = text_of(row, field)
        if text is not None:
            yield text


def _parquet(path: Path, field: str) -> Iterator[str]:
    from pyarrow import parquet  # pyright: ignore[reportMissingImports] - optional

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64, columns=[field]):
            for value in batch.column(0).to_pylist():
                text = text_of(value, field)
                if text is not None:
                    yield text
