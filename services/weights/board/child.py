"""The process that wandb runs in: ``python -m services.weights.board.child``.

Reads lines of JSON: first what the runs are (see ``Runs``), then pages, each a list of rows. Writes one line for each
when it has been handed over: ``{}``, or ``{"error": …}``. Ends at the end of its input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

FINISH_S = 20.0
"""How long the last run may take to finish once nobody listens any more."""


class Runs:
    """Runs of at most ``run_events`` rows, one after the other."""

    def __init__(self, wandb: Any, made: dict[str, Any]) -> None:
        self._wandb = wandb
        self._made = made
        self._run: Any = None
        self._rows = 0

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Hand rows over, in their order."""
        for row in rows:
            if self._rows >= self._made["run_events"]:
                self.finish()
            if self._run is None:
                self._run = self._begin(row)
            self._run.log(row)
            self._rows += 1

    def finish(self) -> None:
        """End the current run."""
        if self._run is not None:
            self._run.finish()
        self._run, self._rows = None, 0

    def _begin(self, row: dict[str, Any]) -> Any:
        made = self._made
        return self._wandb.init(
            project=made["project"],
            entity=made["entity"] or None,
            mode=made["mode"],
            dir=made["directory"],
            name=f"{made['name']}-{row['stream_id']}",
            config=made["config"],
            notes=made["notes"] or None,
            tags=made["tags"],
            settings=self._wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_stats=True,
                x_save_requirements=False,
                init_timeout=60,
            ),
        )


def main() -> None:
    """Serve one parent."""
    # What wandb prints is nobody's answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(said: dict[str, str]) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    runs: Runs | None = None
    try:
        import wandb

        runs = Runs(wandb, json.loads(sys.stdin.readline()))
        answer({})
        for line in sys.stdin:
            runs.log(json.loads(line))
            answer({})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"[:500]})
    timer = threading.Timer(FINISH_S, lambda: os._exit(1))
    timer.daemon = True
    timer.start()
    if runs is not None:
        runs.finish()
    os._exit(0)


if __name__ == "__main__":
    main()
