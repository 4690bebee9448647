"""Sentence vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from services.reward.engine.backend import Backend, EncoderBackend
from services.reward.engine.budget import TokenBudget
from services.reward.engine.build import encoder_model, proven
from services.reward.engine.errors import ModelError
from services.reward.engine.fallback import Fallback
from services.reward.engine.load import identity_of, open_directory
from services.reward.engine.put import put
from services.reward.engine.text import Tokens


class Encoder:
    """A sentence encoder. `dim` is the width of its vectors, `identity` a hash of its files. One thread at a time."""

    def __init__(
        self,
        *,
        backend: Backend,
        kind: str,
        why_fallback: str | None,
        tokens: Tokens,
        identity: str,
        dim: int,
        budget: TokenBudget,
    ) -> None:
        self.backend = backend
        self.kind = kind
        self.why_fallback = why_fallback
        self.tokens = tokens
        self.identity = identity
        self.dim = dim
        self.budget = budget

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.tokens.tokenizer

    @property
    def oom_halvings(self) -> int:
        """How often memory ran out and the token budget was halved."""
        return self.budget.oom_halvings

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """`[n, dim]` float32, each row of unit length."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        rows = self.backend.rows([self.tokens.of(texts)], self.budget)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def load_encoder(
    path: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    max_tokens: int | None = None,
    token_budget: int = 2048,
) -> Encoder:
    """The AutoModel at `path` as a sentence encoder; pooling as `1_Pooling/config.json` says, else the mean."""
    path = Path(path)
    pooling = read_pooling(path)
    found = open_directory(
        path,
        transformers.AutoModel,
        device=device,
        dtype=dtype,
        max_tokens=max_tokens,
        optional="pooler",
    )
    limit = sentence_limit(path, found.limit)

    def read(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return pool(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, pooling)

    plain = Fallback(found.model, read, found.text.pad_token_id, device)
    backend, why = proven(lambda: _packed(found.model, pooling), plain, found.text.vocab_size, limit)
    return Encoder(
        backend=backend,
        kind="fallback" if why else "encoder",
        why_fallback=why,
        tokens=Tokens(found.tokenizer, limit),
        identity=identity_of(path, pooling),
        dim=found.text.hidden_size,
        budget=TokenBudget(token_budget, device),
    )


def _packed(model: Any, pooling: str) -> EncoderBackend:
    packed = encoder_model(model, first_only=pooling == "cls")
    return EncoderBackend(packed, lambda states, ends: pool_packed(states, ends, pooling))


def pool_packed(states: torch.Tensor, ends: list[int], pooling: str) -> torch.Tensor:
    """`[n, width]` of packed states `[rows, width]` (for `cls`, of the first tokens already)."""
    if pooling == "cls":
        return states
    stops = np.asarray(ends)
    if pooling == "last":
        return states[put(stops - 1, states.device)]
    counts = np.diff(stops, prepend=0)
    which = put(np.repeat(np.arange(len(ends)), counts), states.device)
    summed = states.new_zeros((len(ends), states.shape[1]), dtype=torch.float32)
    return summed.index_add_(0, which, states.float()) / put(counts, states.device)[:, None]


def read_pooling(path: Path) -> str:
    """`mean`, `cls` or `last`, from sentence-transformers' `1_Pooling/config.json`; without one, `mean`."""
    file = path / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    wanted = {k.removeprefix("pooling_mode_") for k, v in json.loads(file.read_text()).items() if v is True}
    wanted.discard("include_prompt")
    names = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
    if len(wanted) != 1 or not wanted <= set(names):
        raise ModelError(
            "model_incompatible",
            f"The pooling of the model at {path} is {', '.join(sorted(wanted)) or 'none'}.",
            "Choose an encoder that pools by mean, first or last token.",
        )
    return names[wanted.pop()]


def sentence_limit(path: Path, limit: int) -> int:
    """`limit`, or the smaller `max_seq_length` of `sentence_bert_config.json` where there is one."""
    file = path / "sentence_bert_config.json"
    if not file.is_file():
        return limit
    return min(limit, int(json.loads(file.read_text()).get("max_seq_length") or limit))


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """`[n, width]` from `[n, length, width]`; padding is on the right."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)
