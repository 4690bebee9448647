"""From a configuration to a stack with its models loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from services.reward import metrics
from services.reward.batch import Function, Mask
from services.reward.config import (
    AnyFunction,
    AnyMask,
    BlacklistPart,
    DiversityPart,
    DpoPart,
    JudgePart,
    LengthPart,
    RelevanceMaskPart,
    RelevancePart,
    SafetyPart,
    StackConfig,
    TaskValidatorPart,
    ValueHeadPart,
    key_of,
)
from services.reward.endpoint import Endpoint
from services.reward.functions.classifier import SequenceClassifier
from services.reward.functions.dpo import Dpo
from services.reward.functions.judge import Judge
from services.reward.functions.relevance import Relevance
from services.reward.masks.blacklist import Blacklist
from services.reward.masks.diversity import Diversity
from services.reward.masks.history import History
from services.reward.masks.length import Length
from services.reward.masks.phrases import Phrases
from services.reward.masks.relevance import RelevanceThreshold
from services.reward.masks.safety import Safety
from services.reward.masks.siblings import Siblings
from services.reward.masks.task_validator import TaskValidator
from services.reward.models import ClassifierOps, Models, SafetyOps
from services.reward.stack import Learnt, Stack, Weighted

RULES = 5
"""Raise it when the code of a function or mask changes what it gives: rewards then are of another version."""


@dataclass(frozen=True)
class Built:
    """A stack, the safety filter when one is configured, and what must be closed in the end."""

    stack: Stack
    safety: Safety | None
    closers: tuple[Callable[[], Awaitable[None]], ...] = ()


def build(config: StackConfig, models: Models, *, safety: bool = True) -> Built:
    """Load the models and wire the parts. ``safety`` false leaves a configured filter out. Raises BadModel."""
    identities: dict[str, str] = {}
    functions: dict[str, Weighted] = {}
    closers: list[Callable[[], Awaitable[None]]] = []
    for part in config.function:
        name = part.name or part.type
        function, identity = _function(name, part, models, closers)
        functions[name] = Weighted(function, part.weight, part.normalise)
        if identity:
            identities[name] = identity
    masks: dict[str, Mask] = {}
    learnt: dict[str, Learnt] = {}
    for part in config.mask:
        masks[part.type], identity = _mask(part, models)
        learnt |= _learnt(part, models)
        if identity:
            identities[f"mask:{part.type}"] = identity
    filter_ = None
    if safety and config.safety is not None:
        filter_, identities["mask:safety"] = _safety(config.safety, models)
        if config.safety.mask:
            masks["safety"] = filter_
    version = version_of(config, identities, safety=filter_ is not None)
    stack = Stack(
        version=version, functions=functions, masks=masks, learnt=learnt, models=identities, timed=_timed
    )
    return Built(stack, filter_, tuple(closers))


def version_of(config: StackConfig, identities: dict[str, str], *, safety: bool) -> str:
    """16 hex digits that stand for everything that decides a reward: rules, parameters, files of the models.

    Where the files lie is left out: replicas that mount them elsewhere agree.
    """
    plain: dict[str, Any] = config.model_dump(mode="json", exclude={"name"})
    for part in [*plain["function"], *plain["mask"], plain["safety"] or {}]:
        if part.get("type") != "judge":
            part.pop("model", None)
        part.pop("head", None)
        part.pop("reference", None)
        part.pop("key_variable", None)
    if not safety:
        plain["safety"] = None
    said = json.dumps([RULES, plain, sorted(identities.items())], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _function(
    name: str, part: AnyFunction, models: Models, closers: list[Callable[[], Awaitable[None]]]
) -> tuple[Function, str]:
    if isinstance(part, RelevancePart):
        encoder = models.encoder(part.model)
        return Relevance(name, encoder, echo_margin=part.echo_margin), encoder.identity
    if isinstance(part, JudgePart):
        endpoint = Endpoint(part.base_url, part.model, key=key_of(part), timeout_s=part.timeout_s)
        closers.append(endpoint.close)
        return Judge(name, endpoint.ask, concurrent=part.concurrent, max_chars=part.max_chars), ""
    if isinstance(part, DpoPart):
        two = models.dpo(part)
        return Dpo(name, two.op), two.identity
    if isinstance(part, ValueHeadPart):
        model = models.value_head(part.model, part.head, max_tokens=part.max_tokens)
    else:
        model = models.classifier(
            part.model, label=part.label, max_tokens=part.max_tokens, pairs=part.text.template == "pair"
        )
    ops = ClassifierOps(model, models.form(part.model, part.text, model), shift=part.shift)
    return SequenceClassifier(name, ops, difference=part.mode == "difference"), model.identity


def _mask(part: AnyMask, models: Models) -> tuple[Mask, str]:
    if isinstance(part, RelevanceMaskPart):
        encoder = models.encoder(part.model)
        return RelevanceThreshold(encoder, threshold=part.threshold), encoder.identity
    if isinstance(part, DiversityPart):
        encoder = models.encoder(part.model)
        return Diversity(encoder, **part.model_dump(exclude={"type", "model", "history"})), encoder.identity
    values = part.model_dump(exclude={"type", "common"})
    if isinstance(part, BlacklistPart):
        return Blacklist(**values), ""
    if isinstance(part, TaskValidatorPart):
        return TaskValidator(**values), ""
    if isinstance(part, LengthPart):
        return Length(**values), ""
    return Siblings(**values), ""


def _learnt(part: AnyMask, models: Models) -> dict[str, Learnt]:
    """What a mask learns, as masks beside it."""
    if isinstance(part, BlacklistPart) and part.common:
        return {"phrases": Phrases(common=part.common, hit=part.hit)}
    if isinstance(part, DiversityPart) and part.history:
        return {"history": History(models.encoder(part.model), **part.model_dump(exclude={"type", "model"}))}
    return {}


def _safety(part: SafetyPart, models: Models) -> tuple[Safety, str]:
    model = models.classifier(part.model, label=part.label, max_tokens=None)
    return Safety(SafetyOps(model), threshold=part.threshold), model.identity


def _timed(part: str) -> AbstractContextManager[object]:
    return metrics.PART_SECONDS.labels(part).time()
