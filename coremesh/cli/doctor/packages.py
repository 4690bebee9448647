"""What is installed for which service, and what the GPUs are. Nothing heavy is imported into this process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from coremesh.cli.doctor.run import Patient
from coremesh.cli.findings import Finding, fail, ok, warn
from coremesh.settings import GatingSettings, RewardSettings

OPTIONAL = ("traces", "wandb", "parquet", "hub", "plots", "devnet")
GIB = 1024**3
CUDA = """
import json, torch
found = []
if torch.cuda.is_available():
    for n in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(n)
        found.append([torch.cuda.get_device_name(n), free, total])
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "devices": found}))
"""
CUDA_DEADLINE_S = 60.0


def installed(patient: Patient) -> Iterator[Finding]:
    """The packages of every service's extra."""
    wanted = _extras()
    for service in {one.extra: one for one in patient.services}.values():
        names = sorted({*wanted.get(service.extra, ()), *service.packages})
        missing = [name for name in names if _version(name) is None]
        users = ", ".join(one.name for one in patient.services if one.extra == service.extra)
        if missing:
            level = fail if patient.asked else warn
            yield level(
                "packages",
                f"extra {service.extra}",
                f"{users} cannot run here: {', '.join(missing)} not installed",
                f'make install, or pip install -c constraints.txt ".[{service.extra}]"',
            )
        else:
            yield ok("packages", f"extra {service.extra}", f"everything for {users} is installed")
    for extra in OPTIONAL:
        missing = [name for name in sorted(wanted.get(extra, ())) if _version(name) is None]
        said = f"{', '.join(missing)} not installed; only needed where asked for" if missing else "installed"
        yield ok("optional", f"extra {extra}", said)


def _extras() -> dict[str, set[str]]:
    """Names of packages by extra, from coremesh's own metadata."""
    found: dict[str, set[str]] = {}
    try:
        required = metadata.requires("coremesh") or []
    except metadata.PackageNotFoundError:
        required = []
    for line in required:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name:
            found.setdefault(extra[1], set()).add(name[0])
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def gpus(patient: Patient) -> Iterator[Finding]:
    """What torch sees, asked in a process of its own; and whether the devices in the settings are among it."""
    if not patient.has("gating", "reward") or _version("torch") is None:
        return
    said = ""
    try:
        done = subprocess.run(
            [sys.executable, "-c", CUDA], capture_output=True, text=True, timeout=CUDA_DEADLINE_S - 1
        )
        said = done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired):
        yield fail("torch", "torch", "torch does not come up", "Look at `python -c 'import torch'` by hand.")
        return
    except ValueError:
        last = (said.strip().splitlines() or ["no word"])[-1]
        yield fail(
            "torch", "torch", f"torch cannot be imported: {last}", "make install installs the pinned one."
        )
        return
    devices: list[tuple[str, int, int]] = told["devices"]
    for name, free, total in devices:
        yield ok("gpu", "gpu", f"{name}: {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    wanted = _devices(patient)
    for setting, device in wanted.items():
        number = device.partition(":")[2]
        if device.startswith("cuda") and int(number or 0) >= len(devices):
            yield fail(
                "no_gpu",
                setting,
                f"{setting} is {device}, and torch {told['version']} sees {len(devices) or 'no'} CUDA devices",
                f"Is the driver installed, torch a CUDA build (CUDA {told['cuda']})? Or set {setting} to auto or cpu.",
            )
    if not devices:
        yield ok("gpu", "gpu", f"torch {told['version']}, no CUDA device: models run on the CPU")


def _devices(patient: Patient) -> dict[str, str]:
    found: dict[str, str] = {}
    if patient.has("gating") and GatingSettings in patient.settings:
        found["gating.device"] = patient.settings[GatingSettings].device
    if patient.has("reward") and RewardSettings in patient.settings:
        found["reward.device"] = patient.settings[RewardSettings].device
    return found
