"""Progress of long work: a bar on standard error, on a terminal only and never with ``--json``.

So that output can be piped and read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress(
    title: str, total: float | None, console: Console | None = None
) -> Generator[Callable[[float], None]]:
    """Gives a function that is told how much more was done, of ``total`` (None: not known). Gone when it ends."""
    console = console or Console(stderr=True)
    if _quiet(console):
        yield lambda _more: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda more: bar.advance(task, more)


@contextmanager
def waiting(title: str, console: Console | None = None) -> Generator[None]:
    """Something turns while the work is done; gone when it ends."""
    console = console or Console(stderr=True)
    if _quiet(console):
        yield
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
        bar.add_task(title, total=None)
        yield


def _quiet(console: Console) -> bool:
    # Programs read --json, whatever standard error is.
    return not console.is_terminal or any(word.partition("=")[0] == "--json" for word in sys.argv)
