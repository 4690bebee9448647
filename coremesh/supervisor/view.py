"""What a person sees of a running mesh: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coremesh.errors import CoremeshError
from coremesh.supervisor.plans import Options
from coremesh.supervisor.supervisor import Supervisor

CURL = (
    "curl -s {url}/inference -H 'content-type: application/json' "
    """-d '{{"messages":[{{"role":"user","content":"How do vaccines train the immune system?"}}]}}'"""
)


class Facts:
    """What the services say of themselves, asked now and then."""

    def __init__(self, options: Options, token: str) -> None:
        self._options = options
        self._headers = {"authorization": f"Bearer {token}"}
        self.events: int | None = None
        self.weights = "none set yet"
        self.block: int | None = None

    async def ask(self, client: httpx.AsyncClient) -> None:
        """Refresh; a service that does not answer leaves the last fact standing."""
        base = f"http://127.0.0.1:{self._options.weights_port}"
        try:
            scores: dict[str, Any] = (await client.get(f"{base}/scores", headers=self._headers)).json()
            self.events = scores["events"]
            answer: list[dict[str, Any]] = (
                await client.get(f"{base}/submissions", params={"count": 20}, headers=self._headers)
            ).json()["submissions"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return
        for submission in answer:
            if submission["result"] in ("landed", "revealed", "committed", "held", "failed"):
                reason = f" ({submission['reason']})" if submission.get("reason") else ""
                self.weights = f"{submission['result']} at block {submission['block']}{reason}"
                break


class View:
    """Shows a supervisor. ``refresh`` is called on every change and once a second."""

    def __init__(self, supervisor: Supervisor, options: Options, facts: Facts, console: Console) -> None:
        self._supervisor = supervisor
        self._options = options
        self._facts = facts
        self._console = console
        self._live = (
            Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        )
        self._said: dict[str, str] = {}
        self._greeted = False
        self._last_summary = 0.0

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        else:
            self._console.print(
                f"coremesh: starting; logs are in {self._options.directory / 'logs'}",
                highlight=False,
                markup=False,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def refresh(self) -> None:
        """Show the newest state."""
        if self._live:
            self._live.update(self._table())
        else:
            self._lines()

    def failed(self, error: CoremeshError) -> None:
        """Say in one sentence what went wrong, and the remedy."""
        if self._live:
            self._live.stop()
        self._console.print(
            f"coremesh: {error.message}. {error.remedy} [{error.code}]",
            style="red",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def stopped(self) -> None:
        """Say that all was stopped."""
        self._console.print("coremesh: stopped", highlight=False)

    def _greeting(self) -> list[str]:
        url = f"http://127.0.0.1:{self._options.port}"
        return [
            f"ready in {self._supervisor.all_ready_s or 0:.0f} s: {url} (API pages: {url}/docs)",
            f"chain {'ws://127.0.0.1:' + str(self._options.chain_port)}, netuid 1; settings {self._options.config}",
            "Try: " + CURL.format(url=url),
        ]

    def _table(self) -> Group:
        table = Table(title="coremesh", title_justify="left", expand=False)
        for column in ("process", "state", "pid", "restarts", "note"):
            table.add_column(column, overflow="fold")
        colours = {"ready": "green", "starting": "yellow", "waiting": "dim"}
        for p in self._supervisor.processes:
            pid = str(p.process.pid) if p.process else "-"
            note = Text(p.detail[:100])  # what a process says of itself is no markup
            table.add_row(
                p.plan.name, Text(p.state, style=colours.get(p.state, "red")), pid, str(p.restarts), note
            )
        parts: list[Any] = [table]
        if self._supervisor.all_ready_s is None:
            parts.append(self._waiting())
        parts.append(Text(self._summary()))
        if self._supervisor.all_ready_s is not None:
            parts += [Text(line, overflow="fold") for line in self._greeting()]
        parts.append(Text("Ctrl-C stops everything.", style="dim"))
        return Group(*parts)

    def _waiting(self) -> Table:
        every = self._supervisor.processes
        ready, seconds = sum(p.ready for p in every), time.monotonic() - self._supervisor.started_at
        columns = Table.grid(padding=(0, 1))
        columns.add_row(
            ProgressBar(total=len(every), completed=ready, width=30),
            f"{ready} of {len(every)} ready, {seconds:.0f} s",
        )
        return columns

    def _summary(self) -> str:
        events = "-" if self._facts.events is None else str(self._facts.events)
        return f"events folded {events}, last weights {self._facts.weights}"

    def _lines(self) -> None:
        for p in self._supervisor.processes:
            line = p.state if p.state == "ready" or not p.detail else f"{p.state}: {p.detail}"
            if p.state in ("ready", "restarting") and self._said.get(p.plan.name) != line:
                self._said[p.plan.name] = line
                self._say(f"{p.plan.name}: {line}")
        if self._supervisor.all_ready_s is not None and not self._greeted:
            self._greeted = True
            for line in self._greeting():
                self._say(line)
        if self._greeted and time.monotonic() - self._last_summary > 30:
            self._last_summary = time.monotonic()
            self._say(self._summary())

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
