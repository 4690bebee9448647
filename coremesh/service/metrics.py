"""The Prometheus metrics that every service has. Names carry their unit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from coremesh.folding import FoldStatus
from coremesh.types import stream_key

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

REQUESTS = Counter("coremesh_http_requests_total", "Requests answered", ["route", "status"])
REQUEST_SECONDS = Histogram(
    "coremesh_http_request_seconds", "Time from request to answer", ["route"], buckets=BUCKETS_S
)
LOOP_LAG_SECONDS = Histogram(
    "coremesh_loop_lag_seconds", "How late the event loop wakes a sleeper", buckets=BUCKETS_S
)
FOLD_VERSION = Gauge("coremesh_fold_version", "Version of the newest checkpoint of a fold", ["fold"])
FOLD_LEADING = Gauge("coremesh_fold_leading", "1 while this instance leads a fold", ["fold"])
FOLD_GAPS = Gauge("coremesh_fold_gaps", "Times a fold found events trimmed before it saw them", ["fold"])
FOLD_EVENT_TIME = Gauge(
    "coremesh_fold_event_timestamp_seconds",
    "When the history took the newest event that a fold has folded; on its leader",
    ["fold"],
)
DEPENDENCY_UP = Gauge("coremesh_dependency_up", "1 while a dependency answers", ["dependency"])

METAGRAPH_BLOCK = Gauge("coremesh_metagraph_block", "Block of the newest metagraph that this process knows")

FOLD_PROBE_S = 1.0
LAG_PROBE_S = 0.1


async def watch_loop_lag() -> None:
    """Measure how late the event loop is, for ever."""
    while True:
        start = time.monotonic()
        await asyncio.sleep(LAG_PROBE_S)
        LOOP_LAG_SECONDS.observe(max(0.0, time.monotonic() - start - LAG_PROBE_S))


async def watch_fold(name: str, status: Callable[[], FoldStatus | None]) -> None:
    """Show where a fold stands, for ever; nothing of it while there is no status, when nobody is to lead it."""
    while True:
        now = status()
        if now is None:
            for shown in (FOLD_VERSION, FOLD_LEADING, FOLD_GAPS):
                with contextlib.suppress(KeyError):
                    shown.remove(name)
        else:
            FOLD_VERSION.labels(name).set(now.version)
            FOLD_LEADING.labels(name).set(now.leading)
            FOLD_GAPS.labels(name).set(now.gaps)
        appended_ms = stream_key(now.last_id)[0] if now is not None else 0
        if now is not None and now.leading and appended_ms:
            FOLD_EVENT_TIME.labels(name).set(appended_ms / 1000)
        else:
            # A standby's place stands still, and would look like a fold that lags.
            with contextlib.suppress(KeyError):
                FOLD_EVENT_TIME.remove(name)
        await asyncio.sleep(FOLD_PROBE_S)
