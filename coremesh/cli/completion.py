"""What the shell completes where a command becomes a service's own: its flags, which typer does not know.

flags.json is written by docs/generate.py from the commands' own help: a shell that waits cannot start a service to ask.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import typer.core

from coremesh.settings import ALL_SECTIONS

FLAGS_FILE = "flags.json"


def flags_of(command: str) -> list[str]:
    """The flags of a command that becomes another process, by its words without ``coremesh``."""
    known: dict[str, list[str]] = json.loads((files("coremesh.cli") / FLAGS_FILE).read_text(encoding="utf-8"))
    return known.get(command, [])


def settings_flags() -> list[str]:
    """Every setting as a flag."""
    return [f"--{cls.section}.{name}" for cls in ALL_SECTIONS for name in cls.model_fields]


class PassesOn(typer.core.TyperCommand):
    """A command that takes flags which typer does not know."""

    takes_settings = False

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Typer's own completions, then flags. Settings are many: they come with the first letter."""
        found = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("-"):
            return found
        more = flags_of(ctx.command_path.partition(" ")[2])
        if self.takes_settings:
            more += ["--config"]
            more += settings_flags() if len(incomplete) > len("--") else []
        said = {item.value for item in found}
        item: Any = typer.core.CompletionItem  # pyright: ignore[reportPrivateImportUsage]
        return found + [
            item(flag) for flag in dict.fromkeys(more) if flag.startswith(incomplete) and flag not in said
        ]


class TakesSettings(PassesOn):
    """One that takes settings as flags too, as a service does."""

    takes_settings = True
