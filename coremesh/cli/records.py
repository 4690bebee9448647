"""Commands about what was recorded: looking, exporting, explaining scores, trying other rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from coremesh.cli.client import Client
from coremesh.cli.completion import PassesOn, TakesSettings
from coremesh.cli.explain import explain as ask_and_show
from coremesh.cli.history import tail as print_tail
from coremesh.cli.keys import config_path, with_config

PASS_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
MODULE = "services.weights"

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML file of settings; default: COREMESH_CONFIG, else .devnet/coremesh.toml"
    ),
]


def register(app: typer.Typer, become: Callable[[str, list[str]], None]) -> None:
    """Add the commands. ``become`` makes this process a service's command: the command line imports no service."""

    @app.command()
    def explain(
        uid: Annotated[int, typer.Argument(help="whose score")],
        events: Annotated[int, typer.Option(min=1, max=500, help="the last so many events of the uid")] = 50,
        sign: Annotated[bool, typer.Option("--sign", help="signed by the validator's hotkey")] = False,
        offline: Annotated[
            bool, typer.Option("--offline", help="from Redis and the wallet, without the weights service")
        ] = False,
        from_parquet: Annotated[
            str | None,
            typer.Option("--from-parquet", help="offline, with this archive: DIR or s3://BUCKET/PREFIX"),
        ] = None,
        config: Config = None,
        as_json: AsJson = False,
    ) -> None:
        """How a miner's score came about: its events, rewards, softmax shares, resets."""
        if offline or from_parquet:
            words = [str(uid), f"--events={events}", *["--sign"] * sign, *["--json"] * as_json]
            words += [f"--from-parquet={from_parquet}"] * bool(from_parquet)
            become(MODULE, ["explain", *with_config(words, config)])
        with Client(config_path(config)) as client:
            ask_and_show(client, uid, events, sign=sign, as_json=as_json)

    @app.command(cls=PassesOn, context_settings=PASS_ON)
    def verify(context: typer.Context) -> None:
        """Check a saved explanation: signature, shares, score steps (`coremesh verify --help` for its options)."""
        become(MODULE, ["verify", *context.args])

    @app.command(cls=TakesSettings, context_settings=PASS_ON)
    def backtest(context: typer.Context) -> None:
        """Fold the history through several rules side by side (`coremesh backtest --help` for its options)."""
        become(MODULE, ["backtest", *with_config(context.args)])

    history = typer.Typer(help="What is recorded.", no_args_is_help=True)
    app.add_typer(history, name="history")

    @history.command()
    def tail(
        count: Annotated[
            int, typer.Option("-n", "--count", min=0, max=100_000, help="the newest so many")
        ] = 10,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="and then every new one")] = False,
        config: Config = None,
        as_json: AsJson = False,
    ) -> None:
        """The newest events, oldest first."""
        print_tail(config_path(config), count, follow=follow, as_json=as_json)

    @history.command(cls=TakesSettings, context_settings=PASS_ON)
    def export(context: typer.Context) -> None:
        """Write events as Parquet (`coremesh history export --help` for its options)."""
        become(MODULE, ["export", *with_config(context.args)])

    _ = (explain, verify, backtest, tail, export)
