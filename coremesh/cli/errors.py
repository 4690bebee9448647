"""Errors as the command line says them: one sentence, a remedy and a stable code; never a stack trace."""

from __future__ import annotations

from typing import Any

from coremesh.command import USAGE, Usage, exit_code
from coremesh.command import say as tell
from coremesh.errors import CoremeshError


class Fault(CoremeshError):
    """Something that should not have happened."""

    code = "fault"
    default_remedy = "This is a fault of coremesh. PYTHONDEVMODE=1 shows where it happened."

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])


def say(error: CoremeshError) -> int:
    """Say it. Gives the exit code."""
    tell(error)
    return exit_code(error)


def of_typer(error: Exception) -> int | None:
    """Say an error of typer's own parser. Gives the exit code, or None for an error of another kind."""
    # Typer carries its own copy of click, and gives no public name to the base of these classes.
    told: Any = error
    if type(error).__name__ == "NoArgsIsHelpError":
        told.show()
        return USAGE
    if type(error).__name__ == "Abort":
        return say(Usage("stopped"))
    if not hasattr(error, "format_message"):
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "coremesh"
    message = str(told.format_message()).strip().rstrip(".")
    return say(Usage(message, remedy=f"`{path} --help` says what it takes."))
