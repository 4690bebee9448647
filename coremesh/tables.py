"""What commands print for people: tables that fit the terminal, and are whole where they are piped."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 240
"""Columns where nobody looks: a file or another program gets a row as one line, with nothing cut or folded."""


def console() -> Console:
    """Standard output, as wide as its terminal (or as COLUMNS says). Brackets in texts and paths are no markup."""
    looked_at = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if looked_at else PIPED_WIDTH, markup=False)


def table(title: str, *columns: str, numbers: Collection[str] = ()) -> Table:
    """An empty table; the columns named in ``numbers`` go to the right and are never folded."""
    made = Table(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        box=box.ROUNDED,
        border_style="dim",
    )
    for column in columns:
        numeric = column in numbers
        made.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric,
            header_style="dim",
        )
    return made


def short(hotkey: str) -> str:
    """A hotkey by its ends, which tell it apart, for where there is no room for 48 characters."""
    return f"{hotkey[:6]}…{hotkey[-6:]}" if len(hotkey) > 16 else hotkey
