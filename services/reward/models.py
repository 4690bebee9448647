"""Models from the engine, as ops; each loaded once however many parts of a stack name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from transformers.utils.logging import disable_progress_bar

from coremesh.errors import BadModel
from coremesh.modelfiles import resolve_model
from services.reward.batch import Batch
from services.reward.config import DpoPart, TextForm
from services.reward.engine import (
    Classifier,
    Encoder,
    Group,
    ModelError,
    clean,
    clean_all,
    load_classifier,
    load_encoder,
    load_value_head,
)
from services.reward.engine.logprob import LogProb, load_logprob
from services.reward.engine.turns import give_way
from services.reward.template import Form
from services.reward.work import CHARS_PER_TOKEN, Op, TextOp

log = structlog.get_logger(__name__)

M = TypeVar("M")

disable_progress_bar()

CHARS_READ_PER_TOKEN = 16
"""Of each text so many characters a token of the model's limit are looked at: more than any prose needs, and
few enough that megabytes of text cost nothing."""

CPU_TOKENS = 2048
GPU_TOKENS = 16_384
"""Tokens a call that saturate a device (NUMBERS.md)."""


@dataclass
class Models:
    """Loads models for one device and keeps them. Raises BadModel for one that is missing or does not fit."""

    device: str = "cpu"
    dtype: torch.dtype | None = None
    loaded: dict[tuple[str, ...], Any] = field(default_factory=dict)

    @property
    def token_budget(self) -> int:
        """Tokens in one call of a model."""
        return CPU_TOKENS if self.device == "cpu" else GPU_TOKENS

    def encoder(self, name: str) -> EncoderOps:
        """The sentence encoder of that name."""
        return self._once(("encoder", name), name, lambda path: EncoderOps(load_encoder(path, **self._how())))

    def classifier(
        self, name: str, *, label: int | str, max_tokens: int | None, pairs: bool = False
    ) -> Classifier:
        """The sequence classifier of that name; ``pairs`` if it is to read pairs of texts as such."""
        return self._once(
            ("classifier", name, str(label), str(max_tokens), str(pairs)),
            name,
            lambda path: load_classifier(
                path, label=label, max_tokens=max_tokens, pairs=pairs, **self._how()
            ),
        )

    def value_head(self, name: str, head: Path, *, max_tokens: int | None) -> Classifier:
        """The causal model of that name with a head from a file."""
        return self._once(
            ("value_head", name, str(head), str(max_tokens)),
            name,
            lambda path: load_value_head(path, head.expanduser(), max_tokens=max_tokens, **self._how()),
        )

    def dpo(self, part: DpoPart) -> DpoOps:
        """A policy and its reference, which must read the same tokens."""
        policy, reference = (
            self._once(
                ("causal", name, str(part.max_tokens)),
                name,
                lambda path: load_logprob(path, max_tokens=part.max_tokens, **self._how()),
            )
            for name in (part.model, part.reference)
        )
        if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
            raise BadModel(
                f"{part.model} and {part.reference} have different tokens, so that their means do not compare",
                remedy="Take as reference the model that the policy was trained from.",
            )
        limit = min(policy.max_tokens, reference.max_tokens)
        return DpoOps(policy, reference, Form(policy.tokenizer, part.text, part.model, limit))

    def form(self, name: str, form: TextForm, model: Classifier) -> Form:
        """How texts are written for a model."""
        return Form(model.tokenizer, form, name, model.tokens.max_tokens)

    def halvings(self) -> dict[str, int]:
        """Per model, how often memory ran out and its token budget was halved."""
        found: dict[str, int] = {}
        # One name may be loaded twice: as an encoder and as a classifier, or with two limits.
        for key, model in self.loaded.items():
            found[key[1]] = found.get(key[1], 0) + int(model.oom_halvings)
        return found

    def _how(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype, "token_budget": self.token_budget}

    def _once(self, key: tuple[str, ...], name: str, open_it: Callable[[Path], M]) -> M:
        if key not in self.loaded:
            try:
                self.loaded[key] = open_it(resolve_model(name))
            except ModelError as error:
                raise BadModel(error.sentence.rstrip("."), remedy=error.remedy) from error
            if why := self._why_slow(self.loaded[key]):
                log.warning("a model runs in padded batches, several times slower", model=name, reason=why)
        return self.loaded[key]

    @staticmethod
    def _why_slow(loaded: Any) -> str | None:
        model = loaded.encoder if isinstance(loaded, EncoderOps) else loaded
        return model.why_fallback


def choose_device(setting: str) -> str:
    """The device of a setting: ``auto`` is a GPU if there is one. Raises BadModel for one that is not there."""
    if setting == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=setting)
    except (RuntimeError, AssertionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise BadModel(
            f"COREMESH_REWARD_DEVICE: {setting} cannot be used: {first}", remedy="Take auto, cpu or cuda:N."
        ) from None
    return setting


def is_fatal(error: BaseException) -> bool:
    """Whether a device is lost for good, so that only a new process helps."""
    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)


def readable(
    texts: Sequence[str], model: Encoder | Classifier | LogProb, *, newest: bool | None = None
) -> list[str]:
    """Of each text the part that the model can come to read, cleaned of control and special tokens: its end if
    ``newest``, its beginning if not; by default what the tokenizer leaves of a long one."""
    give_way()
    most = model.tokens.max_tokens * CHARS_READ_PER_TOKEN
    if newest is None:
        newest = getattr(model.tokenizer, "truncation_side", "right") == "left"
    return clean_all([text[-most:] if newest else text[:most] for text in texts], model.tokenizer)


def _tokens(chars: int, limit: int) -> int:
    return 4 + min(chars // CHARS_PER_TOKEN, limit)


class EncoderOps:
    """A sentence encoder as an op."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.identity = encoder.identity
        self.op: Op[str, NDArray[np.float32]] = self
        self.name = "encode"

    @property
    def oom_halvings(self) -> int:
        """How often memory ran out."""
        return self.encoder.oom_halvings

    def cost(self, item: str) -> int:
        """Tokens, about."""
        return _tokens(len(item), self.encoder.tokens.max_tokens)

    def read(self, texts: Sequence[str]) -> list[str]:
        """Of each text the part that it can come to read, cleaned."""
        return readable(texts, self.encoder)

    def run(self, items: Sequence[str]) -> list[NDArray[np.float32]]:
        """Unit vectors float32 [dim]. What is said twice is read once."""
        places = {text: place for place, text in enumerate(dict.fromkeys(items))}
        vectors = self.encoder.encode(self.read(list(places)))
        return [vectors[places[text]] for text in items]


class ClassifierOps:
    """A reward model as ops over (batch, index of a completion)."""

    def __init__(self, model: Classifier, form: Form, *, shift: float) -> None:
        self.model = model
        self.form = form
        self.plain: Op[tuple[Batch, int], float] = _Score(self, "classify", 1, self._plain)
        self.difference: Op[tuple[Batch, int], float] = _Score(
            self, "classify_difference", 2, self._difference
        )
        self._shift = shift

    def _plain(self, groups: list[Group]) -> list[NDArray[np.float32]]:
        return self.model.score(groups)

    def _difference(self, groups: list[Group]) -> list[NDArray[np.float32]]:
        return self.model.score_difference(groups, self._shift)


class DpoOps:
    """Two causal models as an op over (batch, index of a completion): how much likelier the first finds it."""

    def __init__(self, policy: LogProb, reference: LogProb, form: Form) -> None:
        self.model = policy
        self.form = form
        self.identity = f"{policy.identity}/{reference.identity}"
        self.op: Op[tuple[Batch, int], float] = _Score(self, "dpo", 2, self._gain)
        self._reference = reference

    def _gain(self, groups: list[Group]) -> list[NDArray[np.float32]]:
        pairs = zip(self.model.mean(groups), self._reference.mean(groups), strict=True)
        return [policy - reference for policy, reference in pairs]


class _Score:
    def __init__(
        self,
        ops: ClassifierOps | DpoOps,
        name: str,
        passes: int,
        score: Callable[[list[Group]], list[NDArray[np.float32]]],
    ) -> None:
        self.name = name
        self._ops = ops
        self._passes = passes
        self._score = score

    def cost(self, item: tuple[Batch, int]) -> int:
        """The completion's tokens; its prompt's are shared, and counted for the first completion alone."""
        batch, i = item
        limit = self._ops.model.tokens.max_tokens
        shared = sum(len(turn.content) for turn in batch.turns) if i == 0 else 0
        return self._passes * _tokens(len(batch.completions[i]) + shared, limit)

    def run(self, items: Sequence[tuple[Batch, int]]) -> list[float]:
        """Neighbours of one batch go to the engine as one group, so that their prompt is computed once."""
        runs: list[tuple[Batch, list[int]]] = []
        for batch, i in items:
            if not runs or runs[-1][0] is not batch:
                runs.append((batch, []))
            runs[-1][1].append(i)
        model = self._ops.model
        groups = [
            self._ops.form.group(
                # As Form cuts them: of a prompt the end is read, where the question is, of an answer the beginning.
                _said(batch, model),
                readable([batch.completions[i] for i in indices], model, newest=False),
            )
            for batch, indices in runs
        ]
        return [float(value) for values in self._score(groups) for value in values]


def _said(batch: Batch, model: Classifier | LogProb) -> list[tuple[str, str]]:
    contents = readable([turn.content for turn in batch.turns], model, newest=True)
    return [(turn.role, content) for turn, content in zip(batch.turns, contents, strict=True)]


class SafetyOps:
    """A safety classifier as two ops: texts to windows of 512 tokens, windows to the probability of being unsafe.

    Windows overlap: a passage of up to 64 tokens is in one of them as a whole, wherever it stands. What fits into one
    window costs nothing more, longer texts a seventh.
    """

    WINDOW, OVERLAP = 512, 64

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.windows: Op[str, list[list[int]]] = TextOp("windows", self._windows, len)
        self.unsafe: Op[list[int], float] = _Unsafe(model)

    def _windows(self, text: str) -> list[list[int]]:
        return self.model.windows(clean(text, self.model.tokenizer), self.WINDOW, self.OVERLAP)


class _Unsafe:
    def __init__(self, model: Classifier) -> None:
        self.name = "safety"
        self._model = model

    def cost(self, item: list[int]) -> int:
        """Its tokens."""
        return max(1, len(item))

    def run(self, items: Sequence[list[int]]) -> list[float]:
        """Probabilities in [0, 1]."""
        return probability(self._model.logits(items), self._model.label).tolist()


def probability(logits: NDArray[np.float32], label: int) -> NDArray[np.float64]:
    """The probability [n] of one label: softmax over several, a sigmoid over one. What is no number is 1."""
    wide = logits.astype(np.float64)
    if wide.shape[1] == 1:
        p = 0.5 + 0.5 * np.tanh(wide[:, 0] / 2)
    else:
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
        p = powers[:, label] / powers.sum(axis=1)
    return np.nan_to_num(p, nan=1.0)
