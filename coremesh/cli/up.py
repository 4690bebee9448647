"""``coremesh up``."""

from __future__ import annotations

import asyncio
import signal
import sys
import tomllib

import httpx
from rich.console import Console

from coremesh.errors import CoremeshError
from coremesh.supervisor.claim import Claim
from coremesh.supervisor.jsonlines import JsonLines
from coremesh.supervisor.plans import Options, plans
from coremesh.supervisor.supervisor import StartFailed, Supervisor
from coremesh.supervisor.view import Facts, View


def up(options: Options, as_json: bool = False) -> int:
    """Run the mesh on the devnet until Ctrl-C or SIGTERM. Gives the exit code. Raises BadSetting."""
    with Claim(options.directory, lambda said: print(f"coremesh: {said}", file=sys.stderr)) as claim:
        return asyncio.run(_up(options, as_json, claim))


async def _up(options: Options, as_json: bool, claim: Claim) -> int:
    supervisor = Supervisor(
        plans(options), options.directory / "logs", lambda: view.refresh(), inherits=(claim.fd,)
    )
    supervisor.check_ports()
    token: str = tomllib.loads(options.config.read_text())["mesh"]["token"]
    facts = Facts(options, token)
    view = JsonLines(supervisor, options, facts) if as_json else View(supervisor, options, facts, Console())
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
            if group.subgroup(BrokenPipeError):
                raise BrokenPipeError from None  # nobody reads on: all was stopped, and there is nothing to say
            failure = _first(group)
            if failure is None:
                raise
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    if failure is not None:
        view.failed(failure)
        return failure.exit_code if isinstance(failure, StartFailed) else 1
    view.stopped()
    return 0


def _first(group: BaseExceptionGroup[BaseException]) -> CoremeshError | None:
    for error in group.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if isinstance(found, CoremeshError):
            return found
    return None


async def _watch(facts: Facts, view: View | JsonLines) -> None:
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
        while True:
            await facts.ask(client)
            view.refresh()
            await asyncio.sleep(1.0)
