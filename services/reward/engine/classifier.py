"""Reward models and safety classifiers: texts in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from services.reward.engine.backend import Backend, DecoderBackend, EncoderBackend, before_first, last_real
from services.reward.engine.budget import TokenBudget
from services.reward.engine.build import decoder_backend, packed_classifier, proven
from services.reward.engine.errors import ModelError
from services.reward.engine.fallback import Fallback
from services.reward.engine.load import Opened, identity_of, open_directory
from services.reward.engine.plan import Group
from services.reward.engine.segments import segments, separator_of
from services.reward.engine.text import Tokens
from services.reward.engine.value import ValueModel, read_head


class Classifier:
    """A sequence classifier (or a causal model with a value head). One thread at a time.

    `identity` is a hash of its files, `kind` how it runs (`decoder`, `encoder`, or `fallback` with
    `why_fallback` saying why), `labels` the names of its logits, `label` the one that `score` reads,
    `tokenizer` its tokenizer (for `clean` and chat templates). `early`: texts are tokenised on a thread beside
    this one while the device computes those before them.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        kind: str,
        why_fallback: str | None,
        tokens: Tokens,
        identity: str,
        labels: tuple[str, ...],
        label: int,
        budget: TokenBudget,
        early: bool,
    ) -> None:
        self.backend = backend
        self.kind = kind
        self.why_fallback = why_fallback
        self.tokens = tokens
        self.identity = identity
        self.labels = labels
        self.label = label
        self.budget = budget
        self.early = early

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.tokens.tokenizer

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that are read; the rest is cut off on the tokenizer's truncation side."""
        return self.tokens.max_tokens

    @property
    def oom_halvings(self) -> int:
        """How often memory ran out and the token budget was halved."""
        return self.budget.oom_halvings

    def score(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """For each group, `[K]` float32: the logit of each `prompt + completion`."""
        texts = [[g.prompt + c for c in g.completions] for g in groups]
        return self._split(self._rows(texts), [len(t) for t in texts])

    def score_alone(self, completions: Sequence[str]) -> np.ndarray:
        """`[n]` float32: the logit of each completion without its prompt."""
        return self.score_texts(completions)

    def score_difference(self, groups: Sequence[Group], shift: float) -> list[np.ndarray]:
        """For each group, `[K]` float32: `relu(r(prompt+completion)+shift) - relu(r(completion)+shift)`.

        Both sides go through the model in one packed run, in which equal texts (an empty prompt, completions
        that are copies of each other) are computed once.
        """
        texts = [[g.prompt + c for c in g.completions] for g in groups]
        flat = self._rows([*texts, *(list(g.completions) for g in groups)])
        counts = [len(t) for t in texts]
        both, alone = np.split(np.maximum(flat + np.float32(shift), 0), 2)
        return self._split(both - alone, counts)

    def score_texts(self, texts: Sequence[str]) -> np.ndarray:
        """`[n]` float32: the logit of each text."""
        return self.logits(texts)[:, self.label]

    def logits(self, texts: Sequence[str] | Sequence[Sequence[int]]) -> np.ndarray:
        """`[n, labels]` float32, for texts or for token windows (see `windows`)."""
        if not texts:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        sequences = self.tokens.of(texts) if isinstance(texts[0], str) else texts  # type: ignore[arg-type]
        return self.backend.rows([sequences], self.budget)  # type: ignore[list-item]

    def windows(self, text: str, size: int = 512, overlap: int = 0) -> list[list[int]]:
        """All of the text as windows of at most `size` tokens, for `logits`. See `Tokens.windows`."""
        return self.tokens.windows(text, size, overlap)

    def _rows(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """`[n]` float32: the logit of every text, group by group."""
        if not any(texts):
            return np.zeros(0, dtype=np.float32)
        return self.backend.rows(self.tokens.groups(texts, early=self.early), self.budget)[:, self.label]

    def _split(self, flat: np.ndarray, counts: list[int]) -> list[np.ndarray]:
        return [part.copy() for part in np.split(flat, np.cumsum(counts)[:-1])] if counts else []


def load_classifier(
    path: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    max_tokens: int | None = None,
    token_budget: int = 2048,
    label: int | str = 0,
    pairs: bool = False,
) -> Classifier:
    """The AutoModelForSequenceClassification at `path`; `label` is a column or a name in `id2label`.

    With `pairs`, texts are pairs written with the separator token between them, and a model that tells the
    halves apart by segments (BERT) is told. Raises `ModelError` for a missing or incompatible model, or a label
    it does not have.
    """
    auto = transformers.AutoModelForSequenceClassification
    found = open_directory(path, auto, device=device, dtype=dtype, max_tokens=max_tokens)
    model, pad = found.model, found.text.pad_token_id
    names = tuple(str(found.config.id2label.get(i, i)) for i in range(found.config.num_labels))
    separator = separator_of(found) if pairs else None

    def read(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kinds = {} if separator is None else {"token_type_ids": segments(ids, separator)}
        return model(input_ids=ids, attention_mask=mask, **kinds).logits

    return _classifier(
        found,
        lambda: packed_classifier(model, pad, found.limit, last_real(pad), separator),
        Fallback(model, read, pad, device),
        identity=identity_of(found.path),
        labels=names,
        label=_label_index(label, names),
        budget=TokenBudget(token_budget, device),
        early=device != "cpu",
        separator=separator,
    )


def load_value_head(
    path: Path,
    head_path: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    max_tokens: int | None = None,
    token_budget: int = 2048,
) -> Classifier:
    """The causal model at `path` with the linear head in the safetensors file `head_path`.

    The score is the head's value at the last token before the first end-of-text token, as the original read
    it. The file holds one `[1, hidden]` weight, and a `[1]` bias or none.
    """
    found = open_directory(path, transformers.AutoModel, device=device, dtype=dtype, max_tokens=max_tokens)
    end = found.tokenizer.eos_token_id
    head_path = Path(head_path)
    model = ValueModel(found.model, read_head(head_path, found.text.hidden_size), end).to(device)
    return _classifier(
        found,
        lambda: decoder_backend(found.model, model.head, before_first(end), found.limit),
        Fallback(model, _read_values, end, device),
        identity=identity_of(found.path, head_path),
        labels=("value",),
        label=0,
        budget=TokenBudget(token_budget, device),
        early=device != "cpu",
    )


def _classifier(
    found: Opened,
    packed: Callable[[], Backend],
    plain: Fallback,
    *,
    identity: str,
    labels: tuple[str, ...],
    label: int,
    budget: TokenBudget,
    early: bool,
    separator: int | None = None,
) -> Classifier:
    """Packed if that is proven to give what `plain` gives, else plain."""
    backend, why = proven(packed, plain, found.text.vocab_size, found.limit, separator)
    return Classifier(
        backend=backend,
        kind=_kind(backend),
        why_fallback=why,
        tokens=Tokens(found.tokenizer, found.limit),
        identity=identity,
        labels=labels,
        label=label,
        budget=budget,
        early=early,
    )


def _kind(backend: Backend) -> str:
    if isinstance(backend, DecoderBackend):
        return "decoder"
    return "encoder" if isinstance(backend, EncoderBackend) else "fallback"


def _read_values(model: ValueModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return model(ids, mask)


def _label_index(label: int | str, names: tuple[str, ...]) -> int:
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise ModelError(
        "label_unknown", f"The model has no label {label!r}.", f"Use one of {', '.join(names)} or its number."
    )
