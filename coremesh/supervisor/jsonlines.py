"""What a program sees of a running mesh: one JSON object a line, for every change."""

from __future__ import annotations

import json
from typing import Any

from coremesh.errors import CoremeshError
from coremesh.supervisor.plans import Options
from coremesh.supervisor.supervisor import Supervisor
from coremesh.supervisor.view import Facts


class JsonLines:
    """Tells of a supervisor as a View does: ``process``, ``ready``, ``facts``, ``failed`` and ``stopped`` lines."""

    def __init__(self, supervisor: Supervisor, options: Options, facts: Facts) -> None:
        self._supervisor = supervisor
        self._options = options
        self._facts = facts
        self._said: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def refresh(self) -> None:
        """Say what has changed since the last time."""
        for p in self._supervisor.processes:
            pid = p.process.pid if p.process else None
            now = {"name": p.plan.name, "state": p.state, "pid": pid, "restarts": p.restarts}
            self._say("process", now, note=p.detail)
        seconds = self._supervisor.all_ready_s
        if seconds is not None:
            self._say(
                "ready",
                {
                    "url": f"http://127.0.0.1:{self._options.port}",
                    "chain": f"ws://127.0.0.1:{self._options.chain_port}",
                    "config": str(self._options.config),
                    "seconds": round(seconds, 1),
                },
            )
            self._say("facts", {"weights": self._facts.weights}, events=self._facts.events)

    def failed(self, error: CoremeshError) -> None:
        """Say what ended it."""
        self._say("failed", dict(error.as_dict()))

    def stopped(self) -> None:
        """Say that all was stopped."""
        self._say("stopped", {})

    def _say(self, kind: str, told: dict[str, Any], **beside: Any) -> None:
        """Print a line where ``told`` is new; ``beside`` is told with it, and no reason for a line."""
        key = f"{kind}:{told.get('name', '')}"
        if self._said.get(key) != told:
            self._said[key] = told
            print(json.dumps({"event": kind, **told, **beside}), flush=True)
