"""``coremesh up --json``: every change of a real process as a line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from coremesh.supervisor.jsonlines import JsonLines
from coremesh.supervisor.plans import Options
from coremesh.supervisor.process import Plan
from coremesh.supervisor.supervisor import Supervisor
from coremesh.supervisor.view import Facts
from tests.wait import wait_until


def told(capsys: pytest.CaptureFixture[str], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All lines so far; each is a JSON object, and there is nothing else."""
    before += [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return before


async def test_changes_are_lines_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import time; print('miners ready: 3 serving', flush=True); time.sleep(600)"
    plan = Plan(name="miners", command=(sys.executable, "-u", "-c", code), ready="")
    supervisor = Supervisor([plan], tmp_path, lambda: lines.refresh())
    options = Options(directory=tmp_path, port=18999)
    lines = JsonLines(supervisor, options, Facts(options, "token"))
    stop = asyncio.Event()
    said: list[dict[str, Any]] = []
    with lines:
        running = asyncio.create_task(supervisor.run(stop))
        await wait_until(lambda: any(line["event"] == "ready" for line in told(capsys, said)), timeout=30)
        stop.set()
        await asyncio.wait_for(running, 30)
        lines.stopped()
    told(capsys, said)
    states = [line["state"] for line in said if line["event"] == "process"]
    assert states[:2] == ["starting", "ready"]
    (ready,) = [line for line in said if line["event"] == "ready"]
    assert (ready["url"], ready["config"]) == ("http://127.0.0.1:18999", str(tmp_path / "coremesh.toml"))
    assert {line["weights"] for line in said if line["event"] == "facts"} == {"none set yet"}
    assert said[-1] == {"event": "stopped"}
    repeated = [a for a, b in pairwise(said) if a == b]
    assert repeated == []
