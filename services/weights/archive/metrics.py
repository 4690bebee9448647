"""What Prometheus learns about the archive and the event log."""

from __future__ import annotations

import time

from prometheus_client import Counter, Gauge

from coremesh.types import StreamId, stream_key

ROWS = Counter("coremesh_archive_rows_total", "Rows archived; of the event log, its lines", ["table"])
FAILURES = Counter("coremesh_archive_failures_total", "Writes that failed and are tried again", ["kind"])
LAG_SECONDS = Gauge(
    "coremesh_archive_lag_seconds",
    "Age of the oldest event that is not archived yet; on the leader",
    ["kind"],
)
GAPS = Counter("coremesh_archive_gaps_total", "Times events were trimmed before they were archived", ["kind"])


def age_s(place: StreamId) -> float:
    """Seconds since the history took what stands at ``place``."""
    return max(0.0, time.time() - stream_key(place)[0] / 1000)
