"""Events to rows and back. A row holds all of an event; only the texts may be left out, and what kind of NaN it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from coremesh.events import Change, ForwardEvent, Message, MetagraphEvent, pack, pack_propensity
from coremesh.history import Entry, Submission, SubmissionEntry
from coremesh.types import StreamId
from coremesh.wire.status import name_of
from services.weights.archive.schema import EVENTS, METAGRAPH, SCHEMAS, SUBMISSIONS

Place = Sequence[tuple[StreamId, Any]]


def events_table(
    rows: Sequence[tuple[StreamId, ForwardEvent]],
    names: Mapping[int, str],
    texts: Mapping[str, Sequence[str]] | None,
) -> pa.Table:
    """Forward events as SCHEMAS[EVENTS].

    ``names``: hotkeys of digests, unknown ones are empty. ``texts``: completions per event id; None leaves prompts out
    too.
    """
    events = [event for _, event in rows]
    uids, digests = _lists(events, "uids_", "<u2"), _lists(events, "hotkeys_", "<u8")
    codes = _lists(events, "status_", "u1")
    columns: dict[str, Any] = {
        "stream_id": [place for place, _ in rows],
        "event_id": [e.id for e in events],
        "time": [e.time_ms for e in events],
        "block": [e.block for e in events],
        "kind": [e.kind for e in events],
        "flags": [e.flags for e in events],
        "scored": [e.scored for e in events],
        "uids": uids,
        "hotkeys": _renamed(digests, lambda digest: names.get(digest, "")),
        "digests": digests,
        "statuses": _renamed(codes, name_of),
        "status_codes": codes,
        "latencies": _lists(events, "latency_", "<f4"),
        "rewards": _lists(events, "rewards_", "<f4"),
        "parts": _parts(events),
        "gating": _lists(events, "gating_", "<f4"),
        "propensities": _lists(events, "whole_propensity", "<f2"),
        "best": [e.best for e in events],
        "best_uid": [int(e.uids[e.best]) if 0 <= e.best < len(e.uids_) // 2 else None for e in events],
        "head_version": [e.head_version for e in events],
        "stack_version": [e.stack_version for e in events],
        "stats_version": [e.stats_version for e in events],
        "degraded": [list(e.degraded) for e in events],
        "available": [e.available for e in events],
        "trace": [e.trace for e in events],
        "messages": None,
        "completions": None,
        "version": [e.version for e in events],
    }
    if texts is not None:
        columns["messages"] = [[{"role": m.role, "content": m.content} for m in e.messages] for e in events]
        columns["completions"] = [list(texts[e.id]) if e.id in texts else None for e in events]
    return _table(EVENTS, columns, len(rows))


def metagraph_table(rows: Sequence[tuple[StreamId, MetagraphEvent]]) -> pa.Table:
    """Metagraph events as SCHEMAS[METAGRAPH]."""
    events = [event for _, event in rows]
    columns = {
        "stream_id": [place for place, _ in rows],
        "event_id": [e.id for e in events],
        "time": [e.time_ms for e in events],
        "block": [e.block for e in events],
        "size": [e.size for e in events],
        "changes": [[{"uid": c.uid, "old": c.old, "new": c.new} for c in e.changes] for e in events],
        "permits": _lists(events, "permits_", "<u2"),
        "excluded": _lists(events, "excluded_", "<u2"),
        "version": [e.version for e in events],
    }
    return _table(METAGRAPH, columns, len(rows))


def submissions_table(rows: Sequence[SubmissionEntry]) -> pa.Table:
    """Records of submissions as SCHEMAS[SUBMISSIONS]."""
    found = [row.submission for row in rows]
    columns: dict[str, Any] = {
        name: [getattr(one, name) for one in found]
        for name in Submission.__struct_fields__
        if name != "time_ms"
    }
    columns |= {"stream_id": [row.stream_id for row in rows], "time": [one.time_ms for one in found]}
    return _table(SUBMISSIONS, columns, len(rows))


def entries_of_events(table: pa.Table) -> list[Entry]:
    """The events in a table of SCHEMAS[EVENTS]; without texts they have no messages."""
    c = {name: table.column(name).combine_chunks() for name in table.column_names}
    uids, digests = _bytes(c["uids"], "<u2"), _bytes(c["digests"], "<u8")
    codes, latencies = _bytes(c["status_codes"], "u1"), _bytes(c["latencies"], "<f4")
    rewards, gating = _bytes(c["rewards"], "<f4"), _bytes(c["gating"], "<f4")
    propensities, parts = _bytes(c["propensities"], "<f2"), _parts_of(c["parts"])
    messages = c["messages"].to_pylist()
    plain = {
        name: c[name].to_pylist()
        for name in (
            *("stream_id", "event_id", "block", "kind", "flags", "best", "head_version", "stack_version"),
            *("stats_version", "degraded", "available", "trace", "version"),
        )
    }
    times = c["time"].cast(pa.int64()).to_pylist()
    return [
        Entry(
            StreamId(plain["stream_id"][i]),
            ForwardEvent(
                id=plain["event_id"][i],
                time_ms=times[i],
                block=plain["block"][i],
                kind=plain["kind"][i],
                flags=plain["flags"][i],
                messages=tuple(Message(m["role"], m["content"]) for m in messages[i] or ()),
                uids_=uids[i],
                hotkeys_=digests[i],
                status_=codes[i],
                latency_=latencies[i],
                rewards_=rewards[i],
                parts_=parts[i],
                gating_=gating[i],
                best=plain["best"][i],
                head_version=plain["head_version"][i],
                stack_version=plain["stack_version"][i],
                stats_version=plain["stats_version"][i],
                degraded=tuple(plain["degraded"][i]),
                available=plain["available"][i],
                version=plain["version"][i],
                propensity_=pack_propensity(np.frombuffer(propensities[i], "<f2")),
                trace_=bytes.fromhex(plain["trace"][i]),
            ),
        )
        for i in range(table.num_rows)
    ]


def entries_of_metagraph(table: pa.Table) -> list[Entry]:
    """The events in a table of SCHEMAS[METAGRAPH]."""
    times = table.column("time").cast(pa.int64()).to_pylist()
    return [
        Entry(
            StreamId(row["stream_id"]),
            MetagraphEvent(
                id=row["event_id"],
                time_ms=time_ms,
                block=row["block"],
                size=row["size"],
                changes=tuple(Change(c["uid"], c["old"], c["new"]) for c in row["changes"]),
                permits_=pack(row["permits"], "<u2"),
                excluded_=pack(row["excluded"], "<u2"),
                version=row["version"],
            ),
        )
        for row, time_ms in zip(table.drop_columns(["time"]).to_pylist(), times, strict=True)
    ]


def entries_of_submissions(table: pa.Table) -> list[SubmissionEntry]:
    """The records in a table of SCHEMAS[SUBMISSIONS]."""
    times = table.column("time").cast(pa.int64()).to_pylist()
    found: list[SubmissionEntry] = []
    for row, time_ms in zip(table.drop_columns(["time"]).to_pylist(), times, strict=True):
        place = StreamId(row.pop("stream_id"))
        for name in ("uids", "weights", "values"):
            row[name] = tuple(row[name])
        found.append(SubmissionEntry(place, Submission(time_ms=time_ms, **row)))
    return found


def names_of(table: pa.Table) -> dict[int, str]:
    """Digest to hotkey, of all that a table of SCHEMAS[EVENTS] names."""
    digests = table.column("digests").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    hotkeys = table.column("hotkeys").combine_chunks().flatten()
    unique, first = np.unique(digests, return_index=True)
    return {
        int(d): hotkey
        for d, hotkey in zip(unique, hotkeys.take(pa.array(first)).to_pylist(), strict=True)
        if hotkey
    }


def _table(name: str, columns: Mapping[str, Any], rows: int) -> pa.Table:
    schema = SCHEMAS[name]
    arrays: list[pa.Array] = []
    for field in schema:
        column = columns[field.name]
        if column is None:
            column = pa.nulls(rows, field.type)
        elif isinstance(column, list):
            column = pa.array(column, type=field.type)
        arrays.append(column)
    return pa.Table.from_arrays(arrays, schema=schema)


def _lists(events: Sequence[Any], attribute: str, dtype: str) -> pa.ListArray:
    """A packed column of every event as lists. One that is no whole number of values is null."""
    size = np.dtype(dtype).itemsize
    packed = [getattr(event, attribute) for event in events]
    sound = [len(p) % size == 0 for p in packed]
    whole = [p if ok else b"" for p, ok in zip(packed, sound, strict=True)]
    offsets = np.concatenate(([0], np.cumsum([len(p) // size for p in whole], dtype=np.int64)))
    values = _values(b"".join(whole), dtype)
    mask = None if all(sound) else pa.array([not ok for ok in sound])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=mask)


def _values(packed: bytes, dtype: str) -> pa.Array:
    values = np.frombuffer(packed, dtype)
    if values.dtype.kind != "f":
        return pa.array(values)
    # A researcher's mean must not become NaN for the miners that failed.
    values = values.astype(np.float32)
    return pa.array(values, mask=np.isnan(values))


def _renamed(lists: pa.ListArray, name: Callable[[int], str]) -> pa.ListArray:
    values = lists.values.to_numpy(zero_copy_only=False)
    unique, index = np.unique(values, return_inverse=True)
    words = pa.array([name(int(one)) for one in unique], pa.string())
    return pa.ListArray.from_arrays(lists.offsets, words.take(pa.array(index)), mask=lists.is_null())


def _parts(events: Sequence[ForwardEvent]) -> pa.MapArray:
    sound = [e.sound_parts for e in events]
    counts = [len(parts) for parts in sound]
    keys = [name for parts in sound for name in parts]
    packed = [column for parts in sound for column in parts.values()]
    inner = np.concatenate(([0], np.cumsum([len(p) // 4 for p in packed], dtype=np.int64)))
    items = pa.ListArray.from_arrays(pa.array(inner, pa.int32()), _values(b"".join(packed), "<f4"))
    offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(keys, pa.string()), items)


def _bytes(lists: pa.ListArray, dtype: str) -> list[bytes]:
    """The packed column of every row; null is empty."""
    offsets = lists.offsets.to_numpy()
    values = _numpy(lists.values, dtype)
    nulls = lists.is_null().to_pylist()
    return [b"" if null else values[offsets[i] : offsets[i + 1]].tobytes() for i, null in enumerate(nulls)]


def _numpy(values: pa.Array, dtype: str) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        values = values.fill_null(pa.scalar(float("nan"), pa.float32()))
    return values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)


def _parts_of(maps: pa.MapArray) -> list[dict[str, bytes]]:
    offsets = maps.offsets.to_numpy()
    keys, columns = maps.keys.to_pylist(), _bytes(maps.items, "<f4")
    return [
        dict(zip(keys[a:b], columns[a:b], strict=True))
        for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
