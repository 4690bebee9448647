"""The columns of the archive's tables. Their meaning is in docs/researchers.md; only ever add to the end."""

from __future__ import annotations

import pyarrow as pa

FORMAT = "coremesh archive/1"
META = b"coremesh"
"""The key of a file's own JSON in its metadata."""
EVENTS, METAGRAPH, SUBMISSIONS = TABLES = ("events", "metagraph", "submissions")

_time = pa.timestamp("ms", tz="UTC")
_floats = pa.list_(pa.float32())

SCHEMAS: dict[str, pa.Schema] = {
    EVENTS: pa.schema(
        [
            ("stream_id", pa.string()),
            ("event_id", pa.string()),
            ("time", _time),
            ("block", pa.int64()),
            ("kind", pa.string()),
            ("flags", pa.int32()),
            ("scored", pa.bool_()),
            ("uids", pa.list_(pa.uint16())),
            ("hotkeys", pa.list_(pa.string())),
            ("digests", pa.list_(pa.uint64())),
            ("statuses", pa.list_(pa.string())),
            ("status_codes", pa.list_(pa.uint8())),
            ("latencies", _floats),
            ("rewards", _floats),
            ("parts", pa.map_(pa.string(), _floats)),
            ("gating", _floats),
            ("propensities", _floats),
            ("best", pa.int32()),
            ("best_uid", pa.uint16()),
            ("head_version", pa.int64()),
            ("stack_version", pa.string()),
            ("stats_version", pa.int64()),
            ("degraded", pa.list_(pa.string())),
            ("available", pa.int32()),
            ("trace", pa.string()),
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("completions", pa.list_(pa.string())),
            ("version", pa.int32()),
        ]
    ),
    METAGRAPH: pa.schema(
        [
            ("stream_id", pa.string()),
            ("event_id", pa.string()),
            ("time", _time),
            ("block", pa.int64()),
            ("size", pa.int32()),
            (
                "changes",
                pa.list_(pa.struct([("uid", pa.int32()), ("old", pa.string()), ("new", pa.string())])),
            ),
            ("permits", pa.list_(pa.uint16())),
            ("excluded", pa.list_(pa.uint16())),
            ("version", pa.int32()),
        ]
    ),
    SUBMISSIONS: pa.schema(
        [
            ("stream_id", pa.string()),
            ("id", pa.string()),
            ("time", _time),
            ("block", pa.int64()),
            ("netuid", pa.int32()),
            ("hotkey", pa.string()),
            ("uids", pa.list_(pa.uint16())),
            ("weights", pa.list_(pa.float64())),
            ("values", pa.list_(pa.uint16())),
            ("last_id", pa.string()),
            ("result", pa.string()),
            ("reason", pa.string()),
            ("commit_reveal", pa.bool_()),
            ("landed_block", pa.int64()),
            ("rule", pa.string()),
            ("version_key", pa.uint64()),
        ]
    ),
}
