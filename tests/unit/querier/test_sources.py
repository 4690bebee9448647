"""Where training questions come from: bundled, files, a data set, the network; and none of them for ever."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coremesh.errors import BadSetting
from coremesh.settings import TrainerSettings
from services.querier.questions import Bundled
from services.querier.sources import Seed, Sources, check_sources, make_sources
from services.querier.sources.background import Background
from services.querier.sources.folder import MAX_LINE_BYTES, MAX_TEXT_CHARS, has_pyarrow, read_folder, shuffled
from services.querier.sources.hub import has_datasets, read_hub
from tests.wait import wait_until

QUESTION = "What is a pulsar made of?"
PASSAGE = "Pulsars are neutron stars. They turn many times a second."


def settings(**fields: Any) -> TrainerSettings:
    return TrainerSettings(**fields)


def bundled() -> Bundled:
    return Bundled(("Which bundled question is this?",))


def write_rows(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_folder_gives_paragraphs_and_rows_and_leaves_out_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First line\nsecond line\n\n\n  \nAnother paragraph")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.md").write_text("In a folder below\n")
    write_rows(
        tmp_path / "c.jsonl", {"text": "A row"}, "A bare string", {"text": 7}, {"other": "no text"}, [1]
    )
    with (tmp_path / "c.jsonl").open("ab") as file:
        file.write(
            b"no json\n" + b"[" * 5000 + b"\n" + b'"' + b"x" * (2 * MAX_LINE_BYTES) + b'"\n"The last"\n'
        )
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 or not")
    (tmp_path / "ignored.csv").write_text("not,read")
    (tmp_path / ".hidden.txt").write_text("not read either")
    (tmp_path / "long.txt").write_text(("y" * 1000 + "\n") * 100)
    texts = list(read_folder(tmp_path, "text"))
    assert sorted(text for text in texts if len(text) < 100) == [
        "A bare string",
        "A row",
        "Another paragraph",
        "First line\nsecond line",
        "In a folder below",
        "The last",
    ]
    assert [len(text) for text in texts if len(text) >= 100] == [MAX_TEXT_CHARS]


def test_a_folder_that_is_not_there_is_an_error_of_the_pass(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no folder"):
        list(read_folder(tmp_path / "gone", "text"))


def test_shuffling_keeps_every_text_and_changes_the_order() -> None:
    texts = [str(n) for n in range(3000)]
    mixed = list(shuffled(iter(texts), random.Random(1)))
    assert mixed != texts
    assert sorted(mixed) == sorted(texts)


@pytest.mark.skipif(not has_pyarrow(), reason="pyarrow is not installed")
def test_parquet_is_read_by_its_column(tmp_path: Path) -> None:
    import pyarrow  # pyright: ignore[reportMissingImports]
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    table = pyarrow.table({"body": ["one", None, "two"], "text": ["x", "y", "z"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert sorted(read_folder(tmp_path, "body")) == ["one", "two"]
    assert list(read_folder(tmp_path, "no such column")) == []


@pytest.mark.skipif(not has_datasets(), reason="datasets is not installed")
def test_a_data_set_is_streamed(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", {"text": "one"}, {"text": "two"})
    assert sorted(read_hub(str(tmp_path), "", "train", "text")) == ["one", "two"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": "folder"}, "trainer.folder is not set"),
        ({"source": "hub"}, "trainer.dataset is not set"),
        pytest.param(
            {"source": "hub", "dataset": "some/set"},
            "datasets, which is not installed",
            marks=pytest.mark.skipif(has_datasets(), reason="datasets is installed"),
        ),
        pytest.param(
            {"source": "mixed", "dataset": "some/set"},
            "datasets, which is not installed",
            marks=pytest.mark.skipif(has_datasets(), reason="datasets is installed"),
        ),
    ],
)
def test_a_source_that_cannot_work_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        check_sources(settings(**fields))


@pytest.mark.skipif(has_pyarrow(), reason="pyarrow is installed")
def test_parquet_without_pyarrow_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(BadSetting, match="pyarrow is not installed"):
        check_sources(settings(source="folder", folder=tmp_path))
    check_sources(settings(source="bundled", folder=tmp_path))


def test_a_source_that_is_merely_away_is_not_refused(tmp_path: Path) -> None:
    check_sources(settings(source="folder", folder=tmp_path / "not mounted yet"))
    check_sources(settings())


async def test_a_folder_gives_questions_and_passages_each_once_a_pass(tmp_path: Path) -> None:
    dirty = "What is a  pulsar\x00 made of?"
    write_rows(
        tmp_path / "a.jsonl", {"text": QUESTION}, {"text": PASSAGE}, {"text": dirty}, {"text": "spam " * 9}
    )
    sources = make_sources(settings(source="folder", folder=tmp_path), bundled())
    try:
        seeds = [await sources.next() for _ in range(4)]
    finally:
        sources.close()
    question, passage = (
        Seed(QUESTION, question=True, foreign=True),
        Seed(PASSAGE, question=False, foreign=True),
    )
    assert all(seed in (question, passage) for seed in seeds)
    assert {seed.text for seed in seeds[:2] if seed} == {QUESTION, PASSAGE}
    assert {seed.text for seed in seeds[2:] if seed} == {QUESTION, PASSAGE}


async def test_mixed_takes_turns(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", {"text": QUESTION})
    own = Seed("Which bundled question is this?", question=True)
    given = Seed(QUESTION, question=True, foreign=True)
    for loop, round_ in (("original", [own, given, None]), ("follow_up", [own, given])):
        sources = make_sources(settings(source="mixed", folder=tmp_path, loop=loop), bundled())
        try:
            assert [await sources.next() for _ in range(2 * len(round_))] == round_ * 2
        finally:
            sources.close()


async def test_one_source_alone_is_the_only_one() -> None:
    for source, seed in (
        ("network", None),
        ("bundled", Seed("Which bundled question is this?", question=True)),
    ):
        sources = make_sources(settings(source=source), bundled())
        assert [await sources.next() for _ in range(3)] == [seed] * 3


def test_a_turn_of_an_unknown_source_is_refused() -> None:
    with pytest.raises(ValueError, match="no source radio"):
        Sources(bundled(), (), ("bundled", "radio"))


async def test_where_a_source_is_dead_a_bundled_question_takes_its_place_until_it_is_back(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "mounted later"
    source = Background("folder", lambda: read_folder(folder, "text"), first_rest_s=0.05, max_rest_s=0.05)
    sources = Sources(bundled(), [source], ["folder"])
    try:
        seeds = [await sources.next() for _ in range(3)]
        assert seeds == [Seed("Which bundled question is this?", question=True)] * 3
        folder.mkdir()
        write_rows(folder / "a.jsonl", {"text": QUESTION})

        async def back() -> bool:
            return await sources.next() == Seed(QUESTION, question=True, foreign=True)

        await wait_until(back)
    finally:
        sources.close()


async def test_a_source_that_hangs_keeps_somebody_waiting_once() -> None:
    let_go = threading.Event()

    def read() -> Iterator[str]:
        let_go.wait(30)
        yield QUESTION

    source = Background("hub", read, patience_s=0.1)
    try:
        assert [await source.next() for _ in range(50)] == [None] * 50
        let_go.set()
        assert await wait_until(source.next) == QUESTION
    finally:
        let_go.set()
        source.close()


async def test_reading_ahead_is_bounded_and_ends_when_closed() -> None:
    taken = 0

    def read() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"text number {taken}"

    source = Background("endless", read, ahead=10)
    assert await source.next() == "text number 1"
    await wait_until(lambda: taken >= 11)
    # One is in the reader's hand.
    assert taken <= 12
    source.close()
    await wait_until(lambda: not [t for t in threading.enumerate() if t.name == "source-endless"])
    assert taken <= 12
