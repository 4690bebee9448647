"""``coremesh up``."""

from __future__ import annotations

import asyncio
import signal
import tomllib

import httpx
from rich.console import Console

from coremesh.errors import BadSetting, CoremeshError
from coremesh.supervisor.plans import Options, plans
from coremesh.supervisor.supervisor import StartFailed, Supervisor
from coremesh.supervisor.view import Facts, View


def up(options: Options) -> int:
    """Run the mesh on the devnet until Ctrl-C or SIGTERM. Gives the exit code."""
    console = Console()
    try:
        return asyncio.run(_up(options, console))
    except BadSetting as error:
        console.print(
            f"coremesh: {error.message}. {error.remedy}", style="red", highlight=False, soft_wrap=True
        )
        return 2


async def _up(options: Options, console: Console) -> int:
    supervisor = Supervisor(plans(options), options.directory / "logs", lambda: view.refresh())
    supervisor.check_ports()
    token: str = tomllib.loads(options.config.read_text())["mesh"]["token"]
    facts = Facts(options, token)
    view = View(supervisor, options, facts, console)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    failure: CoremeshError | None = None
    with view:
        watching = asyncio.create_task(_watch(facts, view))
        try:
            await supervisor.run(stop)
        except CoremeshError as error:
            failure = error
        except BaseExceptionGroup as group:
            failure = _first(group)
            if failure is None:
                raise
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    if failure is not None:
        view.failed(failure)
        return failure.exit_code if isinstance(failure, StartFailed) else 1
    console.print("coremesh: stopped", highlight=False)
    return 0


def _first(group: BaseExceptionGroup[BaseException]) -> CoremeshError | None:
    for error in group.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if isinstance(found, CoremeshError):
            return found
    return None


async def _watch(facts: Facts, view: View) -> None:
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
        while True:
            await facts.ask(client)
            view.refresh()
            await asyncio.sleep(1.0)
