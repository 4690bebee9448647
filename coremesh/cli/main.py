"""The command line ``coremesh``: run a mesh, ask it, look into it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from coremesh import __version__
from coremesh.cli import config, errors, keys, records, show
from coremesh.cli.client import Client
from coremesh.cli.completion import PassesOn, TakesSettings
from coremesh.cli.doctor.command import PASS_ON as TAKES_SETTINGS
from coremesh.cli.doctor.command import doctor
from coremesh.cli.keys import config_path as _config
from coremesh.cli.keys import with_config
from coremesh.cli.up import up as run_mesh
from coremesh.command import quietly
from coremesh.errors import CoremeshError
from coremesh.supervisor.plans import Options

EXIT_ERROR = 1

app = typer.Typer(
    help="coremesh: a Bittensor text-prompting validator as a mesh of services.",
    epilog="Exit code: 0 done, 1 something is wrong or differs, 2 a bad setting or command line, 4 could not look: "
    "what the command asks (a service, Redis, the chain, an archive) does not answer. More: the command's own help.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app, name="keys")
app.add_typer(config.app, name="config")

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML file of settings; default: COREMESH_CONFIG, else .devnet/coremesh.toml"
    ),
]


@app.command()
def up(
    directory: Annotated[Path, typer.Option("--dir", help="where the devnet keeps its state")] = Path(
        ".devnet"
    ),
    port: Annotated[
        int,
        typer.Option(help="port of the querier; the other services take the next four", min=1, max=65531),
    ] = 8080,
    chain_port: Annotated[int, typer.Option(help="port of the embedded chain", min=1, max=65535)] = 9944,
    redis_port: Annotated[int, typer.Option(help="port of the mesh's own Redis", min=1, max=65535)] = 6390,
    block_time: Annotated[float, typer.Option(help="seconds a block", min=0.05, max=60)] = 0.25,
    tempo: Annotated[int, typer.Option(help="blocks an epoch", min=5, max=10_000)] = 60,
    rate_limit: Annotated[int, typer.Option(help="blocks between two settings of weights", min=0)] = 20,
    commit_reveal: Annotated[bool, typer.Option(help="weights are committed, then revealed")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print every change as a line of JSON")] = False,
) -> None:
    """Run the whole mesh on this machine: Redis, an embedded chain, miners good and bad, every service."""
    options = Options(
        directory=directory,
        port=port,
        chain_port=chain_port,
        redis_port=redis_port,
        block_time_s=block_time,
        tempo=tempo,
        rate_limit=rate_limit,
        commit_reveal=commit_reveal,
    )
    raise typer.Exit(run_mesh(options, as_json))


@app.command()
def status(config: Config = None, as_json: AsJson = False) -> None:
    """Health of every service, the newest weights, who leads what."""
    with Client(_config(config)) as client:
        found = client.status()
    show.status(found, as_json)
    raise typer.Exit(0 if all(service["ready"] for service in found["services"]) else EXIT_ERROR)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="what to ask the network")],
    k: Annotated[int | None, typer.Option("-k", "--top-k", help="miners to ask")] = None,
    timeout: Annotated[float | None, typer.Option(help="seconds that miners get")] = None,
    every: Annotated[bool, typer.Option("--all", help="show every completion")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Ask the network and print the best completion."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "return_all": every}
    if k is not None:
        body["top_k"] = k
    if timeout is not None:
        body["timeout"] = timeout
    with Client(_config(config)) as client:
        answer = client.post("querier", "/inference", body, timeout_s=(timeout or 60) + 30)
    show.answer(answer, as_json)


@app.command()
def scores(config: Config = None, as_json: AsJson = False) -> None:
    """The moving scores of all miners, best first."""
    with Client(_config(config)) as client:
        show.scores(client.get("weights", "/scores"), as_json)


@app.command()
def weights(config: Config = None, as_json: AsJson = False) -> None:
    """The weights that would be set now, beside what the chain holds."""
    with Client(_config(config)) as client:
        show.weights(client.get("weights", "/weights"), as_json)


app.command(cls=TakesSettings, context_settings=TAKES_SETTINGS)(doctor)

PASS_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(cls=PassesOn, context_settings=PASS_ON)
def miner(context: typer.Context) -> None:
    """Run the reference miner (`coremesh miner --help` for its options)."""
    _become("miner", context.args)


@app.command(cls=TakesSettings, context_settings=PASS_ON)
def replay(context: typer.Context) -> None:
    """Recompute scores and weights from the history and compare them with what is held and was set."""
    _become("services.weights", ["replay", *with_config(context.args)])


gating = typer.Typer(help="Learning whom to ask.", no_args_is_help=True)
app.add_typer(gating, name="gating")


@gating.command(cls=TakesSettings, context_settings=PASS_ON)
def evaluate(context: typer.Context) -> None:
    """Replay recorded events through several rules (`coremesh gating evaluate --help` for its options)."""
    _become("services.gating", ["evaluate", *with_config(context.args)])


reward = typer.Typer(help="What completions are worth.", no_args_is_help=True)
app.add_typer(reward, name="reward")


@reward.command(cls=TakesSettings, context_settings=PASS_ON)
def compare(context: typer.Context) -> None:
    """Compare a shadow stack with the one that counts (`coremesh reward compare --help` for its options)."""
    _become("services.reward", ["compare", *with_config(context.args)])


records.register(app, lambda module, words: _become(module, words))


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    if as_json:
        show.as_json({"version": __version__})
    else:
        print(__version__)


def _become(module: str, words: list[str]) -> None:
    # The command line imports no service: this process becomes one.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "coremesh.command", module, *words])


def main() -> None:
    """Run the command line; an error is its code, one sentence and a remedy, and an exit code."""
    sys.exit(quietly(_run))


def _run() -> None:
    try:
        code: Any = app(standalone_mode=False, prog_name="coremesh")
    except CoremeshError as error:
        code = errors.say(error)
    except Exception as error:
        code = errors.of_typer(error)
        if code is None:
            if sys.flags.dev_mode:
                raise
            code = errors.say(errors.Fault(error))
    sys.exit(code if isinstance(code, int) else 0)
