"""Where a command's history comes from: Redis, an archive, or an archive and what Redis has after its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from coremesh.errors import HistoryUnavailable
from coremesh.history import History
from coremesh.history.redis import RedisHistory
from coremesh.settings import ArchiveSettings, ChainSettings, RedisSettings, Section, Settings
from services.weights.archive.library import need_pyarrow
from services.weights.fold import NAME
from services.weights.recorded import Recorded

SECTIONS: tuple[type[Section], ...] = (RedisSettings, ChainSettings, ArchiveSettings)


@dataclass(frozen=True, slots=True)
class Source:
    """A history to read. ``store``: the Redis behind it, None when there is only an archive."""

    history: Recorded
    store: History | None
    text: str


@asynccontextmanager
async def open_source(settings: Settings, parquet: str | None) -> AsyncIterator[Source]:
    """The history that ``settings`` name, with the archive in ``parquet``, a folder or ``s3://bucket/prefix``.

    With an archive Redis may be away, or know nothing of it. Raises HistoryUnavailable, ArchiveUnavailable, BadSetting.
    """
    redis, netuid = settings[RedisSettings], settings[ChainSettings].netuid
    store = RedisHistory(redis.address, netuid, timeout=timedelta(seconds=redis.timeout_s))
    try:
        if parquet is None:
            await store.ping()
            yield Source(store, store, "Redis")
            return
        need_pyarrow()
        from services.weights.archive.files import open_files
        from services.weights.archive.reader import Joined, ParquetHistory

        archive = await ParquetHistory.open(open_files(parquet, settings[ArchiveSettings]), netuid)
        gap = f" ({archive.gap})" if archive.gap else ""
        try:
            known = await store.load(NAME) is not None
        except HistoryUnavailable:
            known = False
        if known:
            yield Source(Joined(archive, store), store, f"{parquet}{gap} and Redis")
        else:
            yield Source(archive, None, f"{parquet}{gap}")
    finally:
        await store.close()
