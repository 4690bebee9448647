"""What a service would refuse at its start, found before it is started: nothing is opened, nothing is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from coremesh.cli.findings import Finding, fail, ok, warn
from coremesh.cli.services import Service
from coremesh.errors import BadModel, BadSetting, BadWallet
from coremesh.modelfiles import resolve_model
from coremesh.service.auth import is_loopback, refuse_open_bind
from coremesh.settings import (
    ALL_SECTIONS,
    ArchiveSettings,
    GatingSettings,
    HttpSettings,
    MeshSettings,
    QuerierSettings,
    RewardSettings,
    Settings,
    TraceSettings,
    TrainerSettings,
    WalletSettings,
    WandbSettings,
    examine,
    unknown_variables,
)

COMPOSE = ("CONFIG_DIR", "IMAGE", "LISTEN", "PORT", "TAG", "USER")
"""Variables that docker-compose.yml takes; services do not read them."""
STACK_TIMEOUT_S = 30.0


def check_mesh(services: Sequence[Service], words: Sequence[str]) -> list[Finding]:
    """Every problem of these services' settings, each once, then a line for each service that has none.

    ``words`` are flags, as for a service. Reads files, asks nothing of the network.
    """
    found: list[Finding] = []
    for problem in unknown_variables(ALL_SECTIONS, [f"COREMESH_{name}" for name in COMPOSE]):
        found.append(fail(problem.code, problem.setting, problem.message, problem.remedy))
    fine: list[Finding] = []
    same_port: dict[int, list[str]] = {}
    for service in services:
        own, settings = check_service(service, words)
        news = [one for one in own if one not in found]
        found += news
        if HttpSettings in settings and settings[HttpSettings].port:
            same_port.setdefault(settings[HttpSettings].port, []).append(service.name)
        if not any(one.level == "fail" for one in own):
            fine.append(ok("fine", service.name, f"{service.name} would take these settings"))
    for port, names in same_port.items():
        if len(names) > 1:
            found.append(
                warn(
                    "same_port",
                    "http.port",
                    f"{', '.join(names)} would all listen on port {port}: on one machine only one of them can",
                    "Leave http.port out of what they share; each has a port of its own, or takes --http.port.",
                )
            )
    return found + fine


def check_service(service: Service, words: Sequence[str]) -> tuple[list[Finding], Settings]:
    """What is wrong for one service, and the sections that could be loaded."""
    examined = examine(service.sections, [*words, *service.flags], ALL_SECTIONS)
    settings = examined.settings
    found = [fail(p.code, p.setting, p.message, p.remedy) for p in examined.problems]
    found += [warn("original_option", n.split(" ", 1)[0], n, "Write the new name.") for n in examined.notices]
    if examined.config is not None:
        found += _secrets_file(examined.config)
    found += _guard(service, settings)
    found += _asked_for(service, settings)
    if service.wallet and WalletSettings in settings:
        found += _wallet(settings[WalletSettings])
    if service.name == "gating" and GatingSettings in settings:
        found += model("gating.encoder", settings[GatingSettings].encoder)
    if service.name == "reward" and RewardSettings in settings:
        reward = settings[RewardSettings]
        found += stack("reward.stack", reward.stack)
        if reward.shadow is not None:
            found += stack("reward.shadow", reward.shadow)
    if service.name in ("querier", "trainer") and QuerierSettings in settings:
        found += _spool(settings[QuerierSettings].spool)
    if service.name == "trainer" and TrainerSettings in settings:
        found += _sources(settings[TrainerSettings])
    return found, settings


def _guard(service: Service, settings: Settings) -> Iterator[Finding]:
    if HttpSettings not in settings or MeshSettings not in settings:
        return
    host, token = settings[HttpSettings].host, settings[MeshSettings].token.get_secret_value()
    secured, remedy = True, ""
    if service.guard == "mesh token":
        secured = bool(token)
        remedy = "Set COREMESH_MESH_TOKEN for all services, or listen on 127.0.0.1."
    elif service.guard == "caller keys" and QuerierSettings in settings:
        querier = settings[QuerierSettings]
        secured = bool(querier.api_keys) or querier.require_key or querier.allow_open
        remedy = (
            "Set COREMESH_QUERIER_API_KEYS, or COREMESH_QUERIER_REQUIRE_KEY and make keys with "
            "`coremesh keys create`, or listen on 127.0.0.1."
        )
    try:
        refuse_open_bind(host, secured, remedy=remedy)
    except BadSetting as error:
        yield fail("open_bind", f"http.host of {service.name}", error.message, error.remedy)
    mesh = settings[MeshSettings]
    away = [
        f"mesh.{name}"
        for name in ("gating_url", "reward_url", "weights_url")
        if not is_loopback(urlsplit(str(getattr(mesh, name))).hostname or "")
    ]
    if away and not token:
        yield fail(
            "no_mesh_token",
            "mesh.token",
            f"{', '.join(away)} lead to other machines, and mesh.token is empty: those services refuse to listen",
            "Set COREMESH_MESH_TOKEN, the same for all services: openssl rand -base64 32",
        )


def _secrets_file(path: Path) -> Iterator[Finding]:
    try:
        mode, text = path.stat().st_mode, path.read_text(errors="replace")
    except OSError:
        return  # said already by the loader
    if mode & 0o077 and any(word in text for word in ("token", "api_keys", "password")):
        yield warn(
            "readable_secrets",
            f"--config {path}",
            f"{path} holds secrets and may be read by other users (mode {mode & 0o777:04o})",
            f"chmod 600 {path}",
        )


def _wallet(wallet: WalletSettings) -> Iterator[Finding]:
    if find_spec("bittensor") is None:
        return  # the doctor says which package is missing
    from coremesh.wire.wallets import load_keypair

    try:
        load_keypair(wallet.path.expanduser(), wallet.name, wallet.hotkey)
    except BadWallet as error:
        yield fail(error.code, "wallet", error.message, error.remedy)


def model(about: str, name: str) -> list[Finding]:
    """Nothing where a model's files are here; a warning where the hub has to give them; else a failure."""
    try:
        resolve_model(name, offline=True)
    except BadModel as error:
        if "nor bundled" not in error.message:
            return [fail(error.code, about, f"{about}: {error.message}", error.remedy)]
        if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
            return [fail(error.code, about, f"{about}: {error.message}", error.remedy)]
        message = f"{about}: {name} is not on this machine; the hub is asked for it at the start"
        return [
            warn("model_not_here", about, message, "Fetch it beforehand where the hub cannot be reached.")
        ]
    return []


def stack(about: str, path: Path | None) -> list[Finding]:
    """What is wrong with a reward stack and the models it names."""
    words = [str(path)] if path else []
    if find_spec("services") is None:
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-m", "services.reward.check", *words],
            capture_output=True,
            text=True,
            timeout=STACK_TIMEOUT_S,
        )
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return [
            fail(
                "bad_stack",
                about,
                f"{about} cannot be checked ({type(error).__name__})",
                "Is reward installed?",
            )
        ]
    if "code" in answer:
        message = str(answer["message"]).replace("COREMESH_REWARD_STACK", about, 1)
        return [fail(str(answer["code"]), about, message, str(answer["remedy"]))]
    return [one for name in answer["models"] for one in model(f"{about}: model", str(name))]


def _asked_for(service: Service, settings: Settings) -> Iterator[Finding]:
    """Optional packages that a setting needs."""
    needs: list[tuple[str, str, str]] = []
    if TraceSettings in settings and settings[TraceSettings].endpoint:
        needs.append(("traces.endpoint", "opentelemetry-sdk", "traces"))
        needs.append(("traces.endpoint", "opentelemetry-exporter-otlp-proto-http", "traces"))
    if service.name == "weights" and ArchiveSettings in settings and settings[ArchiveSettings].to:
        needs.append(("archive.to", "pyarrow", "parquet"))
    if service.name == "weights" and WandbSettings in settings and settings[WandbSettings].mode != "off":
        needs.append(("wandb.mode", "wandb", "wandb"))
    for setting, package, extra in needs:
        if not installed(package):
            yield fail(
                "missing_package",
                setting,
                f"{setting} needs {package}, which is not installed",
                f'pip install -c constraints.txt ".[{extra}]", or leave {setting} as it was.',
            )


def installed(package: str) -> bool:
    """Whether a package is installed; nothing is imported."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _spool(directory: Path) -> Iterator[Finding]:
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield fail(
            "bad_directory",
            "querier.spool",
            f"querier.spool {directory}: {place} cannot be written",
            "Name a directory that the user of the service can write.",
        )


def _sources(trainer: TrainerSettings) -> Iterator[Finding]:
    if trainer.source == "folder" and trainer.folder is None:
        yield fail(
            "no_folder",
            "trainer.folder",
            "trainer.source is folder, and trainer.folder is not set",
            "Set COREMESH_TRAINER_FOLDER to a folder of .txt, .md, .jsonl or .parquet files.",
        )
    if trainer.source == "hub" and not trainer.dataset:
        yield fail(
            "no_dataset",
            "trainer.dataset",
            "trainer.source is hub, and trainer.dataset is not set",
            "Set COREMESH_TRAINER_DATASET to the name of a data set on the hub.",
        )
    folder = trainer.folder
    if folder is not None and trainer.source in ("folder", "mixed"):
        if not folder.is_dir():
            message = f"trainer.folder {folder} is no directory now; bundled questions are asked instead"
            yield warn("no_folder", "trainer.folder", message, "Make it, or name another.")
        elif find_spec("pyarrow") is None and any(folder.rglob("*.parquet")):
            message = f"there are Parquet files in trainer.folder ({folder}), and pyarrow is not installed"
            yield fail("no_pyarrow", "trainer.folder", message, "Install pyarrow, or name another folder.")
    if trainer.dataset and trainer.source in ("hub", "mixed") and find_spec("datasets") is None:
        message = "trainer.dataset needs the library datasets, which is not installed"
        yield fail("no_datasets", "trainer.dataset", message, "Install datasets, or unset it.")
