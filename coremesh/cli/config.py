"""``coremesh config``: every setting with its source; ``coremesh config check``: what is wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from coremesh import tables
from coremesh.cli import findings, show
from coremesh.cli.completion import TakesSettings
from coremesh.cli.keys import config_path
from coremesh.cli.preflight import check_mesh
from coremesh.cli.services import NAMES, SERVICES
from coremesh.errors import BadSetting
from coremesh.settings import ALL_SECTIONS, load

PASS_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


class _ShowByDefault(TyperGroup):
    """``coremesh config …`` is ``coremesh config show …``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_ShowByDefault, help="Every setting: shown with its source, or checked.")

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML file of settings; default: COREMESH_CONFIG, else .devnet/coremesh.toml"
    ),
]
Which = Annotated[
    list[str] | None, typer.Option("--service", help=f"only this one, may be repeated: {', '.join(NAMES)}")
]


@app.command("show", cls=TakesSettings, context_settings=PASS_ON)
def show_(context: typer.Context, config: Config = None, as_json: AsJson = False) -> None:
    """Every setting: its flag, environment variable, value and where that came from; secrets are hidden.

    The default of `coremesh config`. Takes settings as flags too, as a service does: --redis.url=URL.
    """
    show.settings(load(ALL_SECTIONS, _words(context, config)).loaded, as_json)


@app.command(cls=TakesSettings, context_settings=PASS_ON)
def check(
    context: typer.Context, service: Which = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Load the settings of every service as it would at its start, and say all that is wrong with them.

    Asks nothing of the network and starts nothing. Takes settings as flags too. Exit code 1 when something is wrong.
    """
    if wrong := sorted(set(service or ()) - set(NAMES)):
        raise BadSetting(
            f"--service: there is no service {', '.join(wrong)}", remedy=f"It takes {', '.join(NAMES)}."
        )
    wanted = [one for one in SERVICES if not service or one.name in service]
    found = check_mesh(wanted, _words(context, config))
    if as_json:
        show.as_json(findings.as_document(found))
    else:
        findings.show(found, tables.console(), "settings of " + ", ".join(one.name for one in wanted))
    sys.stdout.flush()
    raise typer.Exit(1 if any(one.level == "fail" for one in found) else 0)


def _words(context: typer.Context, config: Path | None) -> list[str]:
    path = config_path(config)
    return [*(["--config", str(path)] if path else []), *context.args]
