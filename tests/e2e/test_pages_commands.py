"""The commands of the pages for beginners, as they stand there, on a running mesh."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.mesh import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def shown(page: str) -> list[str]:
    """The lines of a page's blocks that call coremesh, without those that start or end something."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for b in blocks for line in b.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(".venv/bin/coremesh ")]


LINES = [
    line for line in dict.fromkeys([*shown("start.md"), *shown("developers.md")]) if "doctor" not in line
]


def run(mesh: Mesh, line: str) -> subprocess.CompletedProcess[str]:
    program, *words = shlex.split(line)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COREMESH_")}
    return subprocess.run(
        [str(BIN / Path(program).name), *words],
        capture_output=True,
        text=True,
        timeout=110,
        env=clean | {"COREMESH_CONFIG": str(mesh.config), "COLUMNS": "160"},
    )


def test_the_pages_show_commands() -> None:
    assert len(LINES) >= 7


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_a_page_does_what_it_says(mesh: Mesh, line: str) -> None:
    mesh.until(lambda: mesh.cli("status", check=False)["scores"] or None, 60, "scores are known")
    done = run(mesh, line)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-2000:]
    assert done.stdout.strip()
    as_json = run(mesh, line if "--json" in line else f"{line} --json")
    assert as_json.returncode == 0
    json.loads(as_json.stdout)


def test_the_doctor_finds_a_running_mesh_healthy(mesh: Mesh) -> None:
    document = mesh.cli("doctor", check=False)
    failures = [one for one in document["findings"] if one["level"] == "fail"]
    assert failures == []
    said = {one["code"] for one in document["findings"] if one["level"] == "ok"}
    assert {"redis_version", "redis_persistence", "chain", "wallet", "registered", "port", "models"} <= said


def test_the_settings_of_a_running_mesh_are_taken_by_every_service(mesh: Mesh) -> None:
    assert mesh.cli("config", "check")["ok"]
