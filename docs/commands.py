"""The help of every command of coremesh's own as JSON on stdout, by its words: ``python docs/commands.py``.

One process for all, told by its environment to print plain text; a command that becomes another process is left out.
"""

from __future__ import annotations

import json
from typing import Any

import typer.main

from coremesh.cli.main import app


def helps(command: Any, path: str, parent: Any) -> dict[str, str]:
    """The help of a command and of all below it."""
    name = path.rpartition(" ")[2]
    context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    found: dict[str, str] = {}
    if command.get_help_option_names(context):
        found[path] = command.get_help(context)
    for name, one in getattr(command, "commands", {}).items():
        found |= helps(one, f"{path} {name}", context)
    return found


if __name__ == "__main__":
    print(json.dumps(helps(typer.main.get_command(app), "coremesh", None)))
