"""Events to rows and back."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from coremesh.events import Flag, ForwardEvent, Message, MetagraphEvent, encode, forward_event
from coremesh.history import Entry, Submission, SubmissionEntry
from coremesh.types import StreamId, hotkey_digest, new_event_id
from services.weights.archive.rows import (
    entries_of_events,
    entries_of_metagraph,
    entries_of_submissions,
    events_table,
    metagraph_table,
    names_of,
    submissions_table,
)
from services.weights.archive.schema import EVENTS, SCHEMAS
from tests.unit.weights.histories import forwards, news

FLOATS = st.one_of(st.floats(width=32, allow_nan=False), st.just(math.nan))


@st.composite
def full_events(draw: st.DrawFn) -> ForwardEvent:
    n = draw(st.integers(0, 5))

    def column(values: st.SearchStrategy[float]) -> list[float]:
        return draw(st.lists(values, min_size=n, max_size=n))

    text = st.text(max_size=8)
    return forward_event(
        id=new_event_id(),
        time_ms=draw(st.integers(0, 2**45)),
        block=draw(st.integers(0, 2**40)),
        kind=draw(text),
        flags=Flag(draw(st.integers(0, 31))),
        messages=tuple(Message(draw(text), draw(text)) for _ in range(draw(st.integers(0, 2)))),
        uids=column(st.integers(0, 65535)),
        hotkeys=draw(st.lists(st.sampled_from(["", "5A", "5B", "5C"]), min_size=n, max_size=n)),
        status=column(st.integers(0, 255)),
        latency_s=column(FLOATS),
        rewards=column(FLOATS),
        parts={name: column(FLOATS) for name in draw(st.sets(text, max_size=3))},
        gating=column(FLOATS) if draw(st.booleans()) else (),
        best=draw(st.integers(-1, 9)),
        head_version=draw(st.integers(0, 2**50)),
        stack_version=draw(text),
        stats_version=draw(st.integers(0, 2**50)),
        degraded=tuple(draw(st.lists(text, max_size=2))),
        available=draw(st.integers(0, 70000)),
        propensity=[np.float16(p) for p in column(st.floats(0, 1, width=16))],
        trace=draw(st.sampled_from(["", "00" * 15 + "ff"])),
    )


def placed(events: list) -> list[tuple[StreamId, object]]:
    return [(StreamId(f"{n}-{n % 3}"), event) for n, event in enumerate(events, 1)]


def written(event: ForwardEvent) -> bytes:
    """The event with all its parts as float32: an archive does not tell how they were packed."""
    return encode(msgspec.structs.replace(event, parts_=dict(sorted(event.sound_parts.items())), columns_={}))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(full_events(), forwards()), max_size=6))
def test_every_field_of_every_event_comes_back(events: list[ForwardEvent]) -> None:
    rows = placed(events)
    names = {hotkey_digest(name): name for name in ("5A", "5B")}
    table = events_table(rows, names, {})  # type: ignore[arg-type]
    assert table.schema.equals(SCHEMAS[EVENTS])
    back = entries_of_events(table)
    assert [entry.stream_id for entry in back] == [place for place, _ in rows]
    assert [written(entry.event) for entry in back] == [written(event) for event in events]
    used = {int(d) for event in events for d in event.hotkeys}
    assert names_of(table) == {d: name for d, name in names.items() if d in used}
    # The readable columns say the same as the exact ones.
    assert table.column("hotkeys").to_pylist() == [
        [names.get(int(d), "") for d in event.hotkeys] for event in events
    ]
    assert table.column("rewards").to_pylist() == [
        [None if math.isnan(r) else r for r in event.rewards.tolist()] for event in events
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(full_events(), max_size=4))
def test_without_texts_all_but_the_texts_comes_back(events: list[ForwardEvent]) -> None:
    table = events_table(placed(events), {}, None)  # type: ignore[arg-type]
    assert table.column("messages").null_count == table.column("completions").null_count == len(events)
    bare = [msgspec.structs.replace(event, messages=()) for event in events]
    assert [written(entry.event) for entry in entries_of_events(table)] == [written(event) for event in bare]


def test_completions_stand_beside_their_uids() -> None:
    one, two = (
        forward_event(
            id=new_event_id(),
            time_ms=1,
            block=1,
            kind="answer",
            flags=Flag.SCORED,
            messages=(),
            uids=[1, 2],
            hotkeys=["5A", "5B"],
            status=[0, 1],
            latency_s=[0.1, 0.2],
            rewards=[1.0, math.nan],
            best=0,
        )
        for _ in range(2)
    )
    table = events_table(placed([one, two]), {}, {one.id: ["because", ""]})  # type: ignore[arg-type]
    assert table.column("completions").to_pylist() == [["because", ""], None]
    assert table.column("statuses").to_pylist() == [["ok", "timeout"]] * 2
    assert table.column("best_uid").to_pylist() == [1, 1]


def test_a_broken_event_becomes_a_row_without_its_broken_columns() -> None:
    event = ForwardEvent(
        id="x",
        time_ms=1,
        block=1,
        kind="answer",
        flags=4,
        messages=(),
        uids_=b"123",
        hotkeys_=b"12",
        status_=b"",
        latency_=b"1",
        rewards_=b"12345",
        parts_={"a": b"1", "b": b"1234"},
        columns_={"c": b"", "d": b"\x00"},
    )
    (row,) = events_table(placed([event]), {}, {}).to_pylist()  # type: ignore[arg-type]
    assert (row["uids"], row["hotkeys"], row["rewards"], row["statuses"]) == (None, None, None, [])
    assert [name for name, _ in row["parts"]] == ["b"]


@given(st.lists(news(), max_size=5))
def test_metagraph_events_come_back(events: list[MetagraphEvent]) -> None:
    back = entries_of_metagraph(metagraph_table(placed(events)))  # type: ignore[arg-type]
    assert back == [Entry(place, event) for place, event in placed(events)]  # type: ignore[arg-type]


def test_submissions_come_back() -> None:
    entries = [
        SubmissionEntry(
            StreamId(f"{n}-0"),
            Submission(
                id=f"id{n}",
                time_ms=1_700_000_000_000 + n,
                block=n,
                netuid=1,
                hotkey="5Validator",
                uids=(1, 65535)[:n],
                weights=(0.1, 0.9)[:n],
                values=(7282, 65535)[:n],
                last_id="3-0",
                result="landed",
                reason="",
                commit_reveal=bool(n),
                landed_block=n + 1,
                rule="softmax_ema:alpha=0.99",
                version_key=2**64 - 1,
            ),
        )
        for n in range(3)
    ]
    table = submissions_table(entries)
    assert entries_of_submissions(table) == entries
    assert pa.types.is_timestamp(table.schema.field("time").type)


def test_every_field_of_an_event_has_a_column() -> None:
    renamed = {
        "id": "event_id",
        "time_ms": "time",
        "hotkeys_": "digests",
        "status_": "status_codes",
        "latency_": "latencies",
        "propensity_": "propensities",
        "columns_": "parts",
    }
    fields = [renamed.get(f, f).removesuffix("_") for f in ForwardEvent.__struct_fields__]
    assert [field for field in fields if field not in SCHEMAS[EVENTS].names] == []
