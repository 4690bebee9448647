"""Opening a model directory: local files, safetensors, no remote code, or a clear `ModelError`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from services.reward.engine.errors import ModelError
from services.reward.engine.memory import keep_freed_memory

# Some configurations say 1e30 for "no limit"; nothing the engine serves needs more than this.
MOST_TOKENS = 32_768


@dataclass(frozen=True)
class Opened:
    """A model directory, opened. `limit`: the most tokens of a text."""

    path: Path
    config: Any
    model: Any
    tokenizer: Any
    limit: int

    @property
    def text(self) -> Any:
        """The configuration of the part that reads text."""
        return self.config.get_text_config()


def open_directory(
    path: Path,
    auto: Any,
    *,
    device: str,
    dtype: torch.dtype | None,
    max_tokens: int | None,
    optional: str | None = None,
) -> Opened:
    """The model of class `auto` at `path` with its configuration and tokenizer. Raises `ModelError`."""
    path = Path(path)
    config = read_config(path)
    model = open_model(path, auto, device=device, dtype=dtype, optional=optional)
    tokenizer = open_tokenizer(path)
    return Opened(path, config, model, tokenizer, token_limit(model, tokenizer, max_tokens))


def read_config(path: Path) -> Any:
    """The transformers configuration of the model at `path`.

    Raises `ModelError` when there is no such directory, no weights as safetensors, or code to be run.
    """
    if not (path / "config.json").is_file():
        raise ModelError(
            "model_missing",
            f"There is no model at {path} (no config.json).",
            "Download it, or set another path.",
        )
    if not list(path.glob("*.safetensors")):
        raise ModelError(
            "model_unsafe_format",
            f"The model at {path} has no safetensors weights.",
            "Convert the weights to safetensors; pickled weights are never loaded.",
        )
    if "auto_map" in json.loads((path / "config.json").read_text()):
        raise ModelError(
            "model_remote_code",
            f"The model at {path} needs its own code.",
            "Choose a model of an architecture that transformers has; remote code is never run.",
        )
    try:
        return transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            "model_incompatible",
            f"The configuration at {path} cannot be read: {error}.",
            "Choose another model.",
        ) from error


def open_model(
    path: Path, auto: Any, *, device: str, dtype: torch.dtype | None, optional: str | None = None
) -> Any:
    """The model of class `auto` (an AutoModel…) at `path`, in evaluation mode on `device`.

    Every weight the class needs must be in the files, but for those with `optional` in their name: a head left
    at random would pay miners at random.
    """
    try:
        model, info = auto.from_pretrained(
            path,
            dtype=dtype or torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    # Whatever goes wrong inside (safetensors has an error of its own, for one), this model cannot be used.
    except Exception as error:
        raise ModelError(
            "model_incompatible", f"The model at {path} cannot be loaded: {error}", "Choose another model."
        ) from error
    lacking = sorted(name for name in info["missing_keys"] if optional is None or optional not in name)
    if lacking:
        raise ModelError(
            "model_incompatible",
            f"The model at {path} lacks weights that {type(model).__name__} needs: {', '.join(lacking[:5])}.",
            "Choose a model that was trained for this use.",
        )
    if device == "cpu":
        keep_freed_memory()
    return model.eval().requires_grad_(False).to(device)


def open_tokenizer(path: Path) -> Any:
    """The tokenizer at `path`."""
    try:
        return transformers.AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            "tokenizer_missing",
            f"The tokenizer at {path} cannot be loaded: {error}.",
            "Put the model's tokenizer files beside its weights.",
        ) from error


def token_limit(model: Any, tokenizer: Any, max_tokens: int | None) -> int:
    """The most tokens a text may have: what the model takes, or less if `max_tokens` says so."""
    limits = [MOST_TOKENS, int(min(tokenizer.model_max_length, MOST_TOKENS))]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions:
        limits.append(positions - _set_aside(model))
    if max_tokens is not None:
        limits.append(max_tokens)
    if min(limits) < 1:
        raise ModelError(
            "model_incompatible", "The model takes no tokens at all.", "Set max_tokens to 1 or more."
        )
    return min(limits)


def _set_aside(model: Any) -> int:
    """Positions of a model that no token gets: RoBERTa and its relatives count from behind the padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.padding_idx + 1
    return 0


def identity_of(path: Path, *more: Path | str) -> str:
    """A hash of the model's files (configuration, weights, tokenizer, pooling) and of `more`."""
    digest = hashlib.sha256()
    files = [p for p in sorted(path.rglob("*")) if p.suffix in {".json", ".safetensors", ".txt", ".model"}]
    files = [p for p in files if p.name == p.relative_to(path).as_posix() or p.parent.name == "1_Pooling"]
    for item in [*files, *more]:
        if isinstance(item, Path):
            digest.update(item.name.encode())
            with item.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            digest.update(item.encode())
    return digest.hexdigest()[:16]
