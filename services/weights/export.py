"""``coremesh history export``: the recorded events as Parquet, once, to a place of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from coremesh.command import Parser, exit_code, say
from coremesh.errors import BadSetting, CoremeshError
from coremesh.events import ForwardEvent
from coremesh.history import Entry, History
from coremesh.progress import progress
from coremesh.settings import ALL_SECTIONS, ArchiveSettings, ChainSettings, load
from coremesh.types import ORIGIN, StreamId, stream_key
from services.weights.archive.library import need_pyarrow
from services.weights.recorded import PAGE, pages
from services.weights.sources import SECTIONS, open_source

if TYPE_CHECKING:
    from services.weights.archive.files import Files  # needs pyarrow

DONE = 0
LAST_OF_MS = 2**64 - 1
MOST_SUBMISSIONS = 20_000


@dataclass(slots=True)
class Exported:
    """What was written where."""

    to: str
    after: str
    last: str
    rows: dict[str, int]


def main(argv: Sequence[str]) -> int:
    """The command. Gives the exit code."""
    given, words = _parser().parse_known_args(list(argv))
    try:
        need_pyarrow()
        done = asyncio.run(_run(given, words))
    except CoremeshError as error:
        say(error, "export")
        return exit_code(error)
    if given.json:
        print(json.dumps(asdict(done)))
    else:
        counts = ", ".join(f"{count} rows of {table}" for table, count in sorted(done.rows.items()))
        print(f"{counts or 'nothing'} written to {done.to}, events after {done.after} up to {done.last}")
    return DONE


async def _run(given: argparse.Namespace, words: list[str]) -> Exported:
    from services.weights.archive.files import open_files
    from services.weights.archive.schema import TABLES

    settings = load(SECTIONS, words, known=ALL_SECTIONS)
    wanted = settings[ArchiveSettings]
    files = open_files(given.to, wanted)
    if any(await asyncio.gather(*(asyncio.to_thread(files.paths, table) for table in TABLES))):
        raise BadSetting(
            f"there is an archive in {files.root} already, and rows would be there twice",
            remedy="Name an empty place, or set archive.to for an archive that goes on by itself.",
        )
    async with open_source(settings, None) as source:
        assert source.store is not None
        with progress("exporting", await source.history.length()) as advance:
            return await export(
                source.store,
                files,
                netuid=settings[ChainSettings].netuid,
                part_rows=wanted.part_rows,
                texts=given.texts or wanted.texts,
                start_ms=given.start,
                end_ms=given.end,
                advance=advance,
            )


async def export(
    history: History,
    files: Files,
    *,
    netuid: int,
    part_rows: int = 10_000,
    texts: bool = False,
    start_ms: int | None = None,
    end_ms: int | None = None,
    advance: Callable[[float], None] = lambda _more: None,
) -> Exported:
    """Write the events and submissions that the history took from one time until before another.

    Raises HistoryUnavailable, ArchiveUnavailable.
    """
    from services.weights.archive.archiver import Batch, Intent, parts, write

    newest = await history.last_id()
    after = _before(start_ms) if start_ms is not None else await history.trimmed()
    last = min(newest, _before(end_ms), key=stream_key) if end_ms is not None else newest
    kept = [
        one
        for one in reversed(await history.submissions(MOST_SUBMISSIONS))
        if stream_key(one.stream_id) > stream_key(after)
        and (end_ms is None or stream_key(one.stream_id) <= stream_key(_before(end_ms)))
    ]
    done = Exported(files.root, after, after, {})
    batch = Batch(submissions=kept)

    async def flush() -> None:
        nonlocal batch
        until = batch.entries[-1].stream_id if batch.entries else StreamId(done.last)
        first, newest_kept = (kept[0].stream_id, kept[-1].stream_id) if kept else (ORIGIN, ORIGIN)
        intent = Intent(StreamId(done.last), until, first, newest_kept, texts)
        batch.names = await history.resolve(_digests(batch.entries))
        made = batch
        rows = await asyncio.to_thread(lambda: write(files, parts(intent, made, netuid)))
        for table, count in rows.items():
            done.rows[table] = done.rows.get(table, 0) + count
        done.last = until
        batch = Batch()

    async for page in pages(history, after, last):
        for at in range(0, len(page), max(1, min(PAGE, part_rows))):
            piece = page[at : at + min(PAGE, part_rows)]
            if texts:
                for entry in piece:
                    found = await history.transcript(entry.event.id)
                    if found is not None:
                        batch.completions[found.id] = found.completions
            batch.entries += piece
            if len(batch.entries) >= part_rows:
                await flush()
        advance(len(page))
    if batch.entries or batch.submissions:
        await flush()
    return done


def _before(ms: int) -> StreamId:
    return StreamId(f"{ms - 1}-{LAST_OF_MS}") if ms > 0 else ORIGIN


def _digests(entries: Sequence[Entry]) -> list[int]:
    events = [
        e.event for e in entries if isinstance(e.event, ForwardEvent) and len(e.event.hotkeys_) % 8 == 0
    ]
    return sorted({digest for event in events for digest in event.hotkeys.tolist()} - {0})


def _parser() -> Parser:
    parser = Parser(
        prog="coremesh history export",
        description="Writes the events that Redis has as Parquet, in the layout of docs/researchers.md.",
        epilog="Settings are taken too: --redis.url, --chain.netuid, --archive.s3_endpoint, --config FILE, ...",
        allow_abbrev=False,
    )
    parser.add_argument("--to", required=True, metavar="DIR|s3://BUCKET/PREFIX", help="an empty place")
    parser.add_argument(
        "--from", dest="start", type=_time, metavar="TIME", help="ISO 8601, UTC unless it says otherwise"
    )
    parser.add_argument("--until", dest="end", type=_time, metavar="TIME", help="events before this time")
    parser.add_argument("--texts", action="store_true", help="with prompts and completions")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _time(word: str) -> int:
    try:
        at = datetime.fromisoformat(word)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{word!r} is no time; write 2026-01-31 or 2026-01-31T12:00"
        ) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
