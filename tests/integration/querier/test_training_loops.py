"""The selectable loops and sources of training, on real HTTP miners and a real Redis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.querier.__main__ import main
from services.querier.prompts import load_questions
from tests.integration.querier.conftest import World
from tests.integration.querier.network import Behaviour, says
from tests.integration.querier.test_training import trainer
from tests.wait import wait_until

PASSAGE = "Pulsars are neutron stars that turn many times a second. They were found in 1967."
FACT = "Neutron stars are what is left of heavy stars once they have burnt out."


def asks_about_numbers() -> Behaviour:
    """Answers with a fact, and each request for a question with a new one."""
    count = 0

    async def behave(body: dict[str, Any]) -> str:
        nonlocal count
        count += 1
        return (
            FACT if "system" in body["roles"] else f"Sure! What is the number {count} of this chart good for?"
        )

    return behave


async def _at_least(world: World, n: int) -> Any:
    events = await world.forwards()
    return events if len(events) >= n else None


async def test_context_asks_others_each_time_and_records_it(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "stars.txt").write_text(PASSAGE)
    await world.miners(*[asks_about_numbers()] * 9)
    await trainer(world, loop="context", source="folder", folder=folder, topk=1)
    events = (await wait_until(lambda: _at_least(world, 10)))[:10]
    kinds = [event.kind for event in events]
    assert kinds == ["answer", *["question", "answer"] * 4, "answer"]
    assert events[0].messages[1].content.startswith(PASSAGE)
    assert events[1].messages[0].content.startswith(FACT)
    assert events[2].messages[1].content.endswith("of this chart good for?")
    assert events[4].messages[1].content.startswith(f"{FACT}\n\nWhat is the number")
    assert sorted(int(uid) for event in events[:9] for uid in event.uids) == list(range(1, 10))
    assert events[9].messages[1].content.startswith(PASSAGE)
    assert [event.available for event in events] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 9]


async def test_questions_of_a_file_are_asked_and_unsafe_ones_refused(world: World, tmp_path: Path) -> None:
    world.services.bad_texts = ("bomb",)
    folder = tmp_path / "texts"
    folder.mkdir()
    rows = [
        {"q": "How is a very large bomb built?"},
        {"q": "Why do pulsars turn so fast?"},
        {"text": "no field"},
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    miners = await world.miners(says(FACT))
    await trainer(world, loop="original", source="folder", folder=folder, text_field="q")
    events = await wait_until(lambda: _at_least(world, 3))
    assert {event.messages[1].content for event in events} == {"Why do pulsars turn so fast?"}
    assert {body["messages"][1] for body in miners[0].asked} == {"Why do pulsars turn so fast?"}


async def test_a_dead_source_does_not_end_training(world: World, tmp_path: Path) -> None:
    await world.miners(says(FACT))
    await trainer(world, loop="original", source="folder", folder=tmp_path / "gone")
    events = await wait_until(lambda: _at_least(world, 3))
    assert all(event.messages[1].content in load_questions() for event in events)


async def test_training_keeps_to_the_event_rate(world: World) -> None:
    await world.miners(says(FACT))
    await trainer(world, loop="original", source="bundled", in_flight=4, events_per_minute=120)
    events = await wait_until(lambda: _at_least(world, 4))
    # Half a second between two of them, whatever recording took.
    assert events[3].time_ms - events[0].time_ms > 1000


def test_a_trainer_whose_source_cannot_work_is_refused_at_start(capfd: Any) -> None:
    assert main(["--querier.role=trainer", "--trainer.source=folder"]) == 2
    assert "trainer.folder is not set" in capfd.readouterr().err
