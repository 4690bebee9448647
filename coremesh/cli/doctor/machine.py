"""Python, memory, disk, files, clock, ports, containers."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from coremesh.cli.doctor.run import Patient
from coremesh.cli.findings import Finding, fail, ok, warn
from coremesh.service.auth import is_loopback
from coremesh.settings import HttpSettings, MeshSettings, QuerierSettings
from coremesh.supervisor.ports import refusal

GIB = 1024**3
LEAST_PYTHON = (3, 11)
LEAST_FILES, GOOD_FILES = 1024, 8192
LEAST_DISK, GOOD_DISK = GIB, 5 * GIB
GOOD_MEMORY = 4 * GIB
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""


def python(patient: Patient) -> Iterator[Finding]:
    """The version, and the system."""
    version = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        yield fail(
            "python",
            "python",
            f"Python {version}",
            "Install Python 3.11 or newer; make install takes PYTHON=",
        )
    else:
        yield ok("python", "python", f"Python {version} on {platform.system()} {platform.machine()}")


def memory(patient: Patient) -> Iterator[Finding]:
    """What is free, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    kilobytes = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest
    }
    free = kilobytes.get("MemAvailable", 0) * 1024
    said = f"{free / GIB:.1f} GiB of memory are free, {os.cpu_count()} CPU cores"
    if free < GOOD_MEMORY:
        yield warn("memory", "memory", said, "The whole mesh with its default models takes about 4 GiB.")
    else:
        yield ok("memory", "memory", said)


def disk(patient: Patient) -> Iterator[Finding]:
    """Room for the spool and for models."""
    places = {"here": Path.cwd()}
    if patient.has("querier", "trainer") and QuerierSettings in patient.settings:
        places["querier.spool"] = patient.settings[QuerierSettings].spool
    if patient.has("gating", "reward"):
        places["models"] = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    seen: set[int] = set()
    for name, place in places.items():
        while not place.exists() and place != place.parent:
            place = place.parent
        device = place.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place).free
        said = f"{free / GIB:.1f} GiB are free at {place} ({name})"
        if free < LEAST_DISK:
            yield fail(
                "disk", "disk", said, "Make room: events that wait for Redis and models need at least 1 GiB."
            )
        elif free < GOOD_DISK:
            yield warn("disk", "disk", said, "5 GiB leave room for models and logs.")
        else:
            yield ok("disk", "disk", said)


def files(patient: Patient) -> Iterator[Finding]:
    """The limit of open files: a connection to a miner is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"a process may open {soft} files (it may ask for {hard})"
    remedy = f"ulimit -n {GOOD_FILES}, or LimitNOFILE={GOOD_FILES} in the systemd unit."
    if soft < LEAST_FILES:
        yield fail("open_files", "open files", said, remedy)
    elif soft < GOOD_FILES and patient.has("querier", "trainer"):
        yield warn("open_files", "open files", f"{said}; each miner asked is one", remedy)
    else:
        yield ok("open_files", "open files", said)


def clock(patient: Patient) -> Iterator[Finding]:
    """Whether the kernel keeps the clock synchronised: signatures are refused when it is 2 s off."""
    if sys.platform != "linux":
        return
    buffer = ctypes.create_string_buffer(512)  # struct timex, all zero: only asks
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0:
        yield warn(
            "clock", "clock", "the kernel does not say whether the clock is synchronised", "Run NTP (chrony)."
        )
    elif state == _TIME_ERROR:
        message = "nothing keeps this machine's clock synchronised; miners refuse signatures that are 2 s off"
        yield warn(
            "clock", "clock", message, "Run NTP: systemd-timesyncd or chrony (on the host, for a container)."
        )
    else:
        yield ok("clock", "clock", "the clock is synchronised")


def ports(patient: Patient) -> Iterator[Finding]:
    """Whether each service's port is free, or taken by that very service."""
    if HttpSettings not in patient.settings:
        return
    http = patient.settings[HttpSettings]
    free: list[tuple[str, int]] = []
    running = False
    for service in patient.services:
        port = http.port or _by_address(patient, service.name) or service.port
        error = refusal(http.host, port)
        if error is None:
            free.append((service.name, port))
        elif _is_ours(http.host, port):
            running = True
            yield ok("port", f"port {port}", f"a service of coremesh listens on {http.host}:{port}")
        else:
            message = f"{service.name} cannot listen on {http.host}:{port}: {error.strerror}"
            remedy = "Stop what listens there, or choose another --http.port and its mesh.*_url."
            level = fail if patient.configured or patient.asked else warn
            yield level("port", f"port {port}", message, remedy)
    for name, port in free:
        if running and _by_address(patient, name) is not None:
            # The others are told to find it here.
            message = f"nothing listens on {http.host}:{port}: {name} does not run, and others of the mesh do"
            yield warn(
                "not_running", f"port {port}", message, "Start it, or look into its log for why it ended."
            )
        else:
            yield ok("port", f"port {port}", f"{http.host}:{port} is free for {name}")


def _by_address(patient: Patient, name: str) -> int | None:
    """The port by which the others are told to find a service on this machine."""
    if MeshSettings not in patient.settings:
        return None
    address = urlsplit(str(getattr(patient.settings[MeshSettings], f"{name}_url")))
    return address.port if is_loopback(str(address.hostname or "")) else None


def _is_ours(host: str, port: int) -> bool:
    address = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    try:
        answer = httpx.get(f"http://{address}:{port}/openapi.json", timeout=3.0, trust_env=False)
        return str(answer.json()["info"]["title"]).startswith("coremesh ")
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False


def containers(patient: Patient) -> Iterator[Finding]:
    """Docker and compose, where they are installed. Neither is needed."""
    if shutil.which("docker") is None:
        yield ok("docker", "docker", "not installed; only needed to run the mesh in containers")
        return
    said: list[str] = []
    for words in (("version", "--format", "{{json .Server.Version}}"), ("compose", "version", "--short")):
        try:
            done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=6)
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is None or done.returncode:
            what = "its daemon does not answer" if words[0] == "version" else "the compose plugin is missing"
            remedy = (
                "Start it, or join its group." if words[0] == "version" else "Install docker-compose-plugin."
            )
            yield warn("docker", "docker", f"docker is installed, and {what}", remedy)
            return
        try:
            said.append(str(json.loads(done.stdout)))
        except ValueError:
            said.append(done.stdout.strip())
    yield ok("docker", "docker", f"docker {said[0]}, compose {said[1]}")
