"""What `coremesh up` shows of processes is what they say, to the letter."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from coremesh.supervisor.plans import Options
from coremesh.supervisor.process import Plan
from coremesh.supervisor.supervisor import Supervisor
from coremesh.supervisor.view import Facts, View


@pytest.mark.parametrize("terminal", [True, False])
def test_brackets_in_what_a_process_says_end_nothing_and_are_shown(terminal: bool, tmp_path: Path) -> None:
    supervisor = Supervisor([Plan("weights", ("true",), "")], tmp_path / "logs")
    weights = supervisor.processes[0]
    weights.exited, weights.detail = 2, "cannot read [/srv/models]. Name another. [bad_setting]"
    options = Options(tmp_path)
    facts = Facts(options, "token")
    facts.weights = "failed at block 3 (refused: [/y])"
    out = io.StringIO()
    with View(supervisor, options, facts, Console(file=out, force_terminal=terminal, width=200)) as view:
        view.refresh()
        supervisor.all_ready_s = 1.0
        view.refresh()
    said = out.getvalue()
    for text in ("cannot read [/srv/models]. Name another. [bad_setting]", "(refused: [/y])"):
        assert text in said
