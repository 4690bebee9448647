"""Every check at once, each with a deadline: the doctor never hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from coremesh.cli.findings import Finding, fail, warn
from coremesh.cli.services import Service
from coremesh.settings import Settings


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined: the services meant to run here, and the settings that they would run with."""

    services: tuple[Service, ...]
    asked: bool
    """Whether somebody named these services; else what one of them lacks may be on another machine."""
    settings: Settings
    words: tuple[str, ...]
    configured: bool
    """Whether there are settings at all; without any, ``coremesh up`` is what would run."""

    def has(self, *names: str) -> bool:
        """Whether one of these services is meant to run here."""
        return any(service.name in names for service in self.services)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. ``look`` may take ``deadline_s``, and is left behind afterwards."""

    name: str
    look: Callable[[Patient], Iterable[Finding]]
    deadline_s: float = 10.0


def examine_all(patient: Patient, checks: Sequence[Check]) -> list[Finding]:
    """The findings of all checks, in their order. A check that fails itself, or takes too long, is a finding too."""
    results: dict[str, list[Finding]] = {}

    def run(check: Check) -> None:
        try:
            results[check.name] = list(check.look(patient))
        except Exception as error:
            results[check.name] = [
                warn(
                    "check_failed",
                    check.name,
                    f"this could not be looked at: {type(error).__name__}: {' '.join(str(error).split())}"[
                        :300
                    ],
                    "The other findings stand.",
                )
            ]

    threads = {check.name: threading.Thread(target=run, args=(check,), daemon=True) for check in checks}
    started = time.monotonic()
    for thread in threads.values():
        thread.start()
    found: list[Finding] = []
    for check in checks:
        threads[check.name].join(max(0.0, started + check.deadline_s - time.monotonic()))
        late = [
            fail(
                "no_answer",
                check.name,
                f"no answer within {check.deadline_s:g} s",
                "Something hangs: a device, a disk or a network address; look at it by hand.",
            )
        ]
        found += results.get(check.name, late)
    return found
