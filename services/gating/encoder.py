"""Texts to unit vectors with any local transformer encoder or decoder.

Only safetensors weights of architectures that transformers knows are loaded; no code from a model's directory runs,
and nothing is fetched. Pooling follows the model's own ``1_Pooling/config.json`` when there is one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from prometheus_client import Histogram
from transformers import AutoConfig, AutoModel, AutoTokenizer

from coremesh.errors import BadModel, BadSetting
from services.gating.forward import Forward, Pooling

_POOLING_KEYS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_CHARACTERS_PER_TOKEN = 16

BATCH_TOKENS = Histogram(
    "coremesh_gating_batch_tokens",
    "Tokens, padding included where there is any, that the model computes at once",
    buckets=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
)


class TextEncoder(Protocol):
    """Anything that turns texts into vectors."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def identity(self) -> str:
        """Equal only for encoders that give equal vectors."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, dim], aligned with ``texts``. Blocking."""
        ...


class SentenceEncoder:
    """A transformer with pooling. ``encode`` blocks, and may be called from any thread.

    A text longer than ``max_tokens`` keeps its end, where the question is. How texts share batches of at most
    ``token_budget`` tokens is forward.py's.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        pooling: Pooling | None = None,
        max_tokens: int = 256,
        token_budget: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        packed: bool = True,
    ) -> None:
        """Load the model at ``path``; ``packed`` where that is possible. Raises BadModel when it is missing or cannot
        be used."""
        root = Path(path)
        if not (root / "config.json").is_file():
            raise BadModel(f"there is no model at {root}")
        if not any(root.glob("*.safetensors")):
            raise BadModel(f"the model at {root} has no safetensors weights")
        try:
            config = AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=False)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                root, local_files_only=True, trust_remote_code=False
            )
            model: Any = AutoModel.from_pretrained(
                root,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise BadModel(f"the model at {root} cannot be loaded: {error}") from error
        self._lock = Lock()
        self.pooling: Pooling = pooling or _own_pooling(root)
        self.max_tokens = _max_tokens(max_tokens, config, self._tokenizer)
        self._tokenizer.truncation_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        self._forward = Forward(
            model.to(device).eval().requires_grad_(False),
            self.pooling,
            pad_token=int(self._tokenizer.pad_token_id or 0),
            budget=token_budget,
            packed=packed,
            on_batch=BATCH_TOKENS.observe,
        )
        self._dim = int(config.hidden_size)
        self._identity = _identity(root, self.pooling, self.max_tokens, dtype)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def identity(self) -> str:
        """A digest of the weights, the configuration, the tokenizer, pooling, length and number type."""
        return self._identity

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, dim], aligned with ``texts``. Blocking."""
        if not texts:
            return np.zeros((0, self._dim), dtype=np.float32)
        with self._lock:
            ids: list[list[int]] = self._tokenizer(
                [text[-self.max_tokens * _CHARACTERS_PER_TOKEN :] for text in texts],
                truncation=True,
                max_length=self.max_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
            return self._forward([row or [self._tokenizer.pad_token_id] for row in ids])


def choose_device(wanted: str, *, auto: str = "") -> str:
    """The device of a setting; ``auto`` is a GPU if there is one, or what is said here. Raises BadSetting for one that
    is not there."""
    if wanted == "auto":
        return auto or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise BadSetting(
            f"gating.device: {wanted} cannot be used: {first}", remedy="Take auto, cpu or cuda:N."
        ) from None
    return wanted


def _own_pooling(root: Path) -> Pooling:
    """The pooling that the model was trained with, as its directory says; mean when it does not."""
    file = root / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    config = json.loads(file.read_text())
    modes: list[Pooling] = [mode for key, mode in _POOLING_KEYS.items() if config.get(key)]
    others = [
        key
        for key, on in config.items()
        if key.startswith("pooling_mode_") and on and key not in _POOLING_KEYS
    ]
    if len(modes) != 1 or others:
        raise BadModel(
            f"the model at {root} pools in a way that is not supported: {', '.join([*modes, *others]) or 'none'}",
            remedy="Use a model with mean, CLS or last-token pooling, or name the pooling in the settings.",
        )
    return modes[0]


def _max_tokens(wanted: int, config: Any, tokenizer: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None) or wanted
    # RoBERTa-like models start counting positions after the padding index.
    if getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
        positions -= (config.pad_token_id or 0) + 1
    return max(1, min(wanted, positions, int(min(tokenizer.model_max_length, 1_000_000))))


def _identity(root: Path, pooling: str, max_tokens: int, dtype: torch.dtype) -> str:
    digest = blake2b(f"{pooling}/{max_tokens}/{dtype}/left".encode(), digest_size=16)
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    for file in [*(root / name for name in names), *sorted(root.glob("*.safetensors"))]:
        if file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
