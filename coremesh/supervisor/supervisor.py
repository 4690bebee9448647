"""Starting, watching and stopping everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from coremesh.errors import CoremeshError
from coremesh.supervisor.ports import answers, check_ports
from coremesh.supervisor.process import EXIT_BAD_SETTING, Plan, Supervised
from coremesh.text import problem

START_TIMEOUT_S = 150.0
LOOK_EVERY_S = 0.25


class StartFailed(CoremeshError):
    """A process of the mesh cannot run."""

    code = "start_failed"

    def __init__(self, message: str, *, remedy: str | None = None, exit_code: int = 1) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = exit_code


class Supervisor:
    """Runs plans in order: the next starts when those it needs are ready. Restarts what dies.

    ``on_change`` is called whenever a process changes its state; every process inherits the descriptors ``inherits``.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        logs: Path,
        on_change: Callable[[], None] = lambda: None,
        inherits: tuple[int, ...] = (),
    ) -> None:
        self.processes = [Supervised(plan, logs / f"{plan.name}.log", inherits) for plan in plans]
        self._on_change = on_change
        self._client: httpx.AsyncClient | None = None
        self._stopping = False
        self.started_at = time.monotonic()
        self.all_ready_s: float | None = None

    def check_ports(self) -> None:
        """Raise BadSetting, naming every process whose port cannot be had, and the flags that name others."""
        check_ports([supervised.plan for supervised in self.processes])

    async def run(self, stop: asyncio.Event) -> None:
        """Run everything until ``stop`` is set, then stop everything. Raises StartFailed."""
        self.check_ports()
        limits = httpx.Limits(max_keepalive_connections=16)
        async with httpx.AsyncClient(timeout=2.0, limits=limits, trust_env=False) as self._client:
            work = asyncio.create_task(self._work())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
            finally:
                self._stopping = True
                for task in (work, stopping):
                    task.cancel()
                await asyncio.gather(work, stopping, return_exceptions=True)
                await self._stop_all()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            for stage in _stages(self.processes):
                for supervised in stage:
                    group.create_task(self._keep(supervised))
                await self._all_ready(stage)
            self.all_ready_s = time.monotonic() - self.started_at
            self._on_change()

    async def _all_ready(self, stage: list[Supervised]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(supervised.ready for supervised in stage):
            if time.monotonic() > deadline:
                late = next(s for s in stage if not s.ready)
                said = late.detail or late.last_words()
                raise StartFailed(
                    f"{late.plan.name} is not ready after {START_TIMEOUT_S:.0f} s: {said}",
                    remedy=f"Its log is {late.log}.",
                )
            await asyncio.sleep(0.05)

    async def _keep(self, supervised: Supervised) -> None:
        delay = 0.5
        while True:
            await supervised.start()
            self._on_change()
            looking = asyncio.create_task(self._look(supervised))
            try:
                code = await supervised.wait()
            finally:
                looking.cancel()
            words = supervised.last_words()
            if code == EXIT_BAD_SETTING or supervised.crash_loops:
                how = "cannot start" if code == EXIT_BAD_SETTING else "keeps dying"
                raise StartFailed(
                    f"{supervised.plan.name} {how} (exit code {code}): {words}",
                    remedy=f"Its log is {supervised.log}.",
                    exit_code=EXIT_BAD_SETTING if code == EXIT_BAD_SETTING else 1,
                )
            supervised.restarts += 1
            supervised.detail = f"died with {_named(code)}, restarting"
            self._on_change()
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)
            if supervised.started_at and time.monotonic() - supervised.started_at > 60:
                delay = 0.5

    async def _look(self, supervised: Supervised) -> None:
        while True:
            ready, detail = await self._ready(supervised)
            if (ready, detail) != (supervised.ready, supervised.detail):
                supervised.ready, supervised.detail = ready, detail
                self._on_change()
            if ready and not supervised.plan.ready.startswith("http"):
                return  # its process is watched; knocking on its door again and again tells no more
            await asyncio.sleep(LOOK_EVERY_S if not ready else 1.0)

    async def _ready(self, supervised: Supervised) -> tuple[bool, str]:
        address = supervised.plan.ready
        if not address:
            # A process without a port says on its output when it is ready.
            words = supervised.last_words()
            return (" ready" in words or supervised.ready), words
        if address.startswith("tcp://"):
            port = urlsplit(address).port or 0
            return await asyncio.to_thread(answers, port), ""
        assert self._client is not None
        try:
            answer = await self._client.get(address)
            checks: dict[str, str] = answer.json()["checks"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False, "starting"
        wrong = "; ".join(problem(name, said) for name, said in checks.items() if said != "ok")
        return answer.status_code == 200, wrong

    async def _stop_all(self) -> None:
        # Users first, the truth last, so that nothing is lost on the way.
        for stage in reversed(_stages(self.processes)):
            await asyncio.gather(*(supervised.stop() for supervised in stage))
            self._on_change()


STAGES: tuple[tuple[str, ...], ...] = (
    ("redis",),
    ("chain",),
    ("miners", "gating", "reward", "weights"),
    ("querier", "trainer"),
)


def _stages(processes: Sequence[Supervised]) -> list[list[Supervised]]:
    found = [[p for p in processes if p.plan.name in names] for names in STAGES]
    named = {name for names in STAGES for name in names}
    found.append([p for p in processes if p.plan.name not in named])
    return [stage for stage in found if stage]


def _named(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
