from __future__ import annotations

import ast
import asyncio
import re
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from coremesh.events import Flag, ForwardEvent, MetagraphEvent, Transcript
from coremesh.history import Checkpoint
from coremesh.history.keys import Keys
from coremesh.history.redis import RedisHistory
from coremesh.settings import ALL_SECTIONS, load
from coremesh.types import ORIGIN
from coremesh.wire.status import Status
from devnet.roster import RESIDENTS
from tests.events import make_event
from tests.unit.docs.references import ROOT, WRITTEN, text


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("kind", [ForwardEvent, MetagraphEvent, Transcript])
def test_the_history_page_has_every_field_in_its_place(kind: type[msgspec.Struct]) -> None:
    tag = kind.__struct_config__.tag
    names = [field.removesuffix("_") for field in kind.__struct_fields__]
    order = ", ".join([str(tag)] * (tag is not None) + names)
    assert f"`[{order}]`" in re.sub(r",\s+", ", ", text("history.md"))


def test_the_history_page_has_every_status_flag_and_key() -> None:
    page = text("history.md")
    rows = dict(re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", page, re.MULTILINE))
    assert rows == {str(int(status)): status.name for status in Status}
    assert [f"{int(flag)} {flag.name}" for flag in Flag if f"{int(flag)} {flag.name}" not in page] == []
    keys = Keys(1)
    made = {
        *(keys.events, keys.trimmed, keys.transcripts, keys.hotkeys, keys.metagraph, keys.submissions),
        *(keys.checkpoint("scores"), keys.checkpoint("gating:head"), keys.checkpoint("reward:stats")),
    }
    assert [key for key in made if f"`{key.removeprefix('coremesh:{1}:')}`" not in page] == []


async def test_the_program_on_the_history_page_reads_a_real_history(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
) -> None:
    event = make_event({3: 0.5}, hotkeys={3: "5Somebody"})
    place = await redis_history.append(
        event, Transcript(id=event.id, completions=("It scatters.",)), ["5Somebody"]
    )
    lease = await redis_history.acquire("weights", "test", timedelta(seconds=30))
    assert lease is not None
    draft = Checkpoint(last_id=place, state=b"state", format="rule/1")
    await redis_history.save("scores", draft, lease, ORIGIN)
    (program,) = fenced("history.md", "python")
    file = tmp_path / "read.py"
    file.write_text(program.replace("redis://127.0.0.1:6390/0", redis_url))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert said.decode().splitlines() == [
        f"{place} answer Why is the sky blue?",
        "  3 5Somebody 0 0.5 It scatters.",
        f"rule/1 stands at {place}",
    ]


@pytest.mark.parametrize("page", WRITTEN)
def test_python_on_a_page_can_be_read(page: str) -> None:
    for program in fenced(page, "python"):
        ast.parse(program)


def test_the_operators_settings_file_is_taken(tmp_path: Path) -> None:
    (content,) = fenced("operator.md", "toml")
    tables = tomllib.loads(content)
    file = tmp_path / "coremesh.toml"
    file.write_text(content)
    settings = load(ALL_SECTIONS, ["--config", str(file)])
    given = {f"--{section}.{name}" for section, values in tables.items() for name in values}
    assert {one.flag for one in settings.loaded if one.source == "file"} == given


def test_the_runbook_has_every_reason_to_hold() -> None:
    source = "".join(
        (ROOT / "services" / "weights" / name).read_text(encoding="utf-8")
        for name in ("gate.py", "submitter.py")
    )
    codes = set(re.findall(r'Reason\(\s*"(\w+)"', source))
    assert len(codes) >= 10
    part = text("runbook.md").split("\n## WeightsHeld\n", 1)[1].split("\n## ", 1)[0]
    assert [code for code in sorted(codes) if f"`{code}`" not in part] == []


def test_the_devnet_page_has_the_residents_at_their_uids() -> None:
    page = text("devnet.md")
    uids = {resident.name: uid for uid, resident in enumerate(RESIDENTS, start=2)}
    for row, first, last in (
        ("2–9", "specialist-astronomy", "specialist-music"),
        ("10, 11", "generalist-1", "generalist-2"),
        ("12–14", "vague-1", "offtopic"),
        ("15", "slow", "slow"),
        ("16", "flaky", "flaky"),
        ("17", "dead", "dead"),
        ("18–24", "hostile-redirect", "hostile-special-tokens"),
    ):
        numbers = re.split("[–,] ?", row)
        assert [int(numbers[0]), int(numbers[-1])] == [uids[first], uids[last]]
        assert f"\n| {row} |" in page
    assert f"{RESIDENTS[0].host}:{RESIDENTS[0].port} to {RESIDENTS[-1].host}:{RESIDENTS[-1].port}" in page
