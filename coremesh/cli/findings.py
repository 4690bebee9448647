"""What a check found: a level, a sentence and a remedy, for people or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from coremesh import tables

Level = Literal["ok", "warn", "fail"]
COLOURS: dict[str, str] = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result. ``code`` is stable, for programs; ``remedy`` is empty where nothing needs to be done."""

    level: Level
    code: str
    about: str
    message: str
    remedy: str = ""


def ok(code: str, about: str, message: str) -> Finding:
    """All is well."""
    return Finding("ok", code, about, message)


def warn(code: str, about: str, message: str, remedy: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding("warn", code, about, message, remedy)


def fail(code: str, about: str, message: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding("fail", code, about, message, remedy)


def as_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """``ok`` is false where something fails."""
    return {
        "ok": not any(one.level == "fail" for one in findings),
        "findings": [asdict(one) for one in findings],
    }


def show(findings: Sequence[Finding], console: Console, title: str) -> None:
    """A table, what needs doing with its remedy below the sentence."""
    table = tables.table(title, "", "about", "finding")
    for one in findings:
        said = Text(one.message)
        if one.remedy:
            said.append(f"\n{one.remedy}", style="bold")
            said.append(f" [{one.code}]", style="dim")
        table.add_row(Text(one.level, style=COLOURS[one.level]), Text(one.about), said)
    console.print(table)
    counts = {level: sum(one.level == level for one in findings) for level in ("ok", "warn", "fail")}
    console.print(", ".join(f"{n} {level}" for level, n in counts.items()), highlight=False)
