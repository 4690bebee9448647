"""Tables as people see them: whole in 80 columns, and one line a row where they are piped."""

from __future__ import annotations

from typing import Any

import pytest
from rich.text import Text

from coremesh import tables
from coremesh.cli import findings, show
from coremesh.cli.explain import explanation

HOTKEY = "5Dr8tbgGdxdMBJTkmzzbsWcQndeGfR1V4ct2MJBNp1Hc3kSF"
ROW = {"hotkey": HOTKEY, "successes": 1_983, "failures": 0, "excluded": False}
SCORES = {
    "rule": "softmax_ema",
    "events": 2_038,
    "rows": [{"uid": uid, "score": 0.1 - uid / 1000, **ROW} for uid in range(3)],
}
STANDING = {"score": 0.25, "successes": 3, "failures": 1}
STEP = {
    "what": "event",
    "event_id": "01M8FNGWK5Q3AXK2324NCBTBG6",
    "time_ms": 1_700_000_000_000,
    "reward": None,
    "status": "breaker_open",
    "asked": 12,
    "share": 0.0,
    "before": STANDING,
    "after": STANDING,
    "note": "",
}
EXPLANATION: dict[str, Any] = {
    "uid": 1,
    "hotkey": HOTKEY,
    "netuid": 1,
    "standing": STANDING,
    "rank": 2,
    "weight": 0.1,
    "reset_block": 0,
    "rule": "softmax_ema",
    "events": 4,
    "last_id": "1-0",
    "note": "every bit agrees",
    "excluded": False,
    "steps": [STEP, STEP],
}


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda columns: monkeypatch.setenv("COLUMNS", str(columns))


def test_scores_have_a_line_each_in_80_columns(width: Any, capsys: pytest.CaptureFixture[str]) -> None:
    width(80)
    show.scores(SCORES, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(tables.short(HOTKEY) in line for line in lines) == 3
    assert "whole hotkeys" in lines[-1]
    width(120)
    show.scores(SCORES, as_json=False)
    assert capsys.readouterr().out.count(HOTKEY) == 3


def test_a_pipe_gets_whole_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show.scores(SCORES, as_json=False)
    assert sum(HOTKEY in line for line in capsys.readouterr().out.splitlines()) == 3


def test_an_explanation_has_a_line_a_step_in_80_columns(
    width: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    width(80)
    explanation({"explanation": EXPLANATION, "signature": ""})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("11-14 22:13:20" in line and "breaker_open" in line for line in lines) == 2


def test_a_name_in_brackets_is_no_markup(width: Any, capsys: pytest.CaptureFixture[str]) -> None:
    width(80)
    found = [findings.fail("bad_value", "[weights] alpha", "got 7", "Write less.")]
    findings.show(found, tables.console(), "settings")
    assert "[weights] alpha" in capsys.readouterr().out


def test_a_bar_fits_where_it_is_put() -> None:
    assert show.bar(1.0) == Text("\u2588" * 20, style="cyan")
    assert len(show.bar(1.0, 8)) == 8


def test_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = tables.table("", "note")
    table.add_row("no [/srv] and [old]")
    console = tables.console()
    console.print("read from /data/[/srv]/[old]", highlight=False)
    console.print(table)
    said = capsys.readouterr().out
    assert "read from /data/[/srv]/[old]" in said
    assert "no [/srv] and [old]" in said
