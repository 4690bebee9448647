"""The command ``coremesh doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from coremesh import tables
from coremesh.cli import findings, preflight, show
from coremesh.cli.doctor import machine, network, packages
from coremesh.cli.doctor.run import Check, Patient, examine_all
from coremesh.cli.findings import Finding, fail, ok
from coremesh.cli.keys import config_path
from coremesh.cli.services import NAMES, SERVICES
from coremesh.errors import BadSetting
from coremesh.progress import waiting
from coremesh.settings import ALL_SECTIONS, GatingSettings, RewardSettings, examine


def settings_(patient: Patient) -> Iterator[Finding]:
    """What `coremesh config check` says, in one line."""
    if not patient.configured:
        yield ok("settings", "settings", "no settings file and no COREMESH_ variables: every default")
        return
    bad = [one for one in preflight.check_mesh(patient.services, patient.words) if one.level == "fail"]
    if bad:
        first = f"{len(bad)} problems in the settings, the first: {bad[0].message}"
        yield fail("settings", "settings", first, "`coremesh config check` lists all with their remedies.")
    else:
        yield ok("settings", "settings", "every service would take its settings")


def models(patient: Patient) -> Iterator[Finding]:
    """Whether the files of the models in the settings are here."""
    names: list[str] = []
    found: list[Finding] = []
    if patient.has("gating") and GatingSettings in patient.settings:
        names.append("gating.encoder")
        found += preflight.model("gating.encoder", patient.settings[GatingSettings].encoder)
    if patient.has("reward") and RewardSettings in patient.settings:
        names.append("reward.stack")
        found += preflight.stack("reward.stack", patient.settings[RewardSettings].stack)
    yield from found
    if names and not found:
        yield ok("models", "models", f"the models of {' and '.join(names)} are on this machine")


CHECKS: tuple[Check, ...] = (
    Check("python", machine.python),
    Check("packages", packages.installed),
    Check("gpu", packages.gpus, deadline_s=packages.CUDA_DEADLINE_S),
    Check("memory", machine.memory),
    Check("disk", machine.disk),
    Check("open files", machine.files),
    Check("clock", machine.clock),
    Check("ports", machine.ports, deadline_s=20.0),
    Check("settings", settings_, deadline_s=60.0),
    Check("models", models, deadline_s=60.0),
    Check("redis", network.redis, deadline_s=15.0),
    Check("chain", network.chain, deadline_s=15.0),
    Check("wallet", network.wallet, deadline_s=40.0),
    Check("docker", machine.containers, deadline_s=15.0),
)

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def doctor(
    context: typer.Context,
    service: Annotated[
        list[str] | None,
        typer.Option("--service", help=f"what is meant to run here, may be repeated: {', '.join(NAMES)}"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="TOML file of settings; default: COREMESH_CONFIG, else .devnet/coremesh.toml"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what is missing on this machine, and how to fix it. Takes settings as flags too.

    Looks at Python and packages, GPUs, memory, disk, open files, clock, ports, settings, models, Redis, the chain, the
    wallet and docker; each check has a deadline. Exit code 1 when something fails.
    """
    with waiting("looking at this machine"):
        found = examine_all(patient(service or (), config, context.args), CHECKS)
    if as_json:
        show.as_json(findings.as_document(found))
    else:
        findings.show(found, tables.console(), "this machine")
    sys.stdout.flush()
    raise typer.Exit(1 if any(one.level == "fail" for one in found) else 0)


def patient(names: Sequence[str], config: Path | None, flags: Sequence[str]) -> Patient:
    """Whom to examine. Raises BadSetting for a service that there is none of."""
    if wrong := sorted(set(names) - set(NAMES)):
        raise BadSetting(
            f"--service: there is no service {', '.join(wrong)}", remedy=f"It takes {', '.join(NAMES)}."
        )
    path = config_path(config)
    words = [*(["--config", str(path)] if path else []), *flags]
    environment = any(name.upper().startswith("COREMESH_") for name in os.environ)
    return Patient(
        services=tuple(one for one in SERVICES if not names or one.name in names),
        asked=bool(names),
        settings=examine(ALL_SECTIONS, words).settings,
        words=tuple(words),
        configured=bool(words) or environment,
    )
