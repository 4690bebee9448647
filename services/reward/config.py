"""A stack as its TOML file says it: reward functions with weights, and masks."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coremesh.errors import BadSetting

BUNDLED = Path(__file__).parent / "stacks" / "devnet.toml"
NAME = r"^[a-z][a-z0-9_]{0,31}$"


class Part(BaseModel):
    """Unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Normalise(Part):
    """How raw values become comparable.

    ``none``: as they are. ``unit``: clipped to [0, 1]. ``sigmoid``: 1 / (1 + exp(-(raw - mean) / deviation)), for
    logits of a known scale. ``running``: the share of a normal distribution below them, its mean and deviation
    learnt from the history, beginning with the ones given here as if they had been seen ``prior`` times.
    """

    by: Literal["none", "unit", "sigmoid", "running"] = "none"
    mean: float = 0.0
    deviation: float = Field(default=1.0, gt=0)
    prior: int = Field(default=10, ge=1, le=3000)
    cap: int = Field(default=3000, ge=2, le=100_000)


class FunctionPart(Part):
    """What every reward function has."""

    name: str = Field(default="", pattern=rf"{NAME}|^$")
    weight: float = Field(default=1.0, ge=-100, le=100)
    normalise: Normalise = Normalise()


class RelevancePart(FunctionPart):
    """Cosine of prompt and completion."""

    type: Literal["relevance"]
    model: str = Field(min_length=1)
    normalise: Normalise = Normalise(by="unit")
    echo_margin: float = Field(default=0.2, ge=0, le=2)


class TextForm(Part):
    """How prompt and completion become one text."""

    template: Literal["auto", "chat", "pair", "plain"] = "auto"
    prefix: str = ""
    separator: str = "\n"
    suffix: str = ""


class ClassifierPart(FunctionPart):
    """Any AutoModelForSequenceClassification checkpoint."""

    type: Literal["sequence_classifier"]
    model: str = Field(min_length=1)
    label: int | str = 0
    max_tokens: int | None = Field(default=None, ge=8, le=32_768)
    text: TextForm = TextForm()
    mode: Literal["plain", "difference"] = "plain"
    shift: float = Field(default=3.0, ge=-1000, le=1000)


class ValueHeadPart(FunctionPart):
    """A causal model with a linear head in a safetensors file."""

    type: Literal["value_head"]
    model: str = Field(min_length=1)
    head: Path
    max_tokens: int | None = Field(default=None, ge=8, le=32_768)
    text: TextForm = TextForm(template="plain")
    mode: Literal["plain", "difference"] = "plain"
    shift: float = Field(default=3.0, ge=-1000, le=1000)


class DpoPart(FunctionPart):
    """A preference-tuned causal model beside the one that it was tuned from."""

    type: Literal["dpo"]
    model: str = Field(min_length=1)
    reference: str = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=8, le=32_768)
    text: TextForm = TextForm()


class JudgePart(FunctionPart):
    """A language model behind an OpenAI-compatible endpoint, asked for a mark."""

    type: Literal["judge"]
    base_url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    key_variable: str = Field(default="", pattern=r"^[A-Z0-9_]*$")
    timeout_s: float = Field(default=20.0, gt=0, le=300)
    concurrent: int = Field(default=4, ge=1, le=64)
    max_chars: int = Field(default=6000, ge=100, le=100_000)


AnyFunction = Annotated[
    RelevancePart | ClassifierPart | ValueHeadPart | DpoPart | JudgePart, Field(discriminator="type")
]


class BlacklistPart(Part):
    """Listed phrases, own repetitions, the prompt given back; with ``common`` also what too many say."""

    type: Literal["blacklist"]
    phrases: tuple[str, ...] = Field(default=(), max_length=1000)
    similar: float = Field(default=0.8, gt=0, le=1)
    hit: float = Field(default=0.0, ge=0, le=1)
    distinct_low: float = Field(default=0.3, ge=0, le=1)
    distinct_high: float = Field(default=0.6, gt=0, le=1)
    new_words: int = Field(default=5, ge=0, le=100)
    common: float = Field(default=0.1, ge=0, le=1)


class TaskValidatorPart(Part):
    """Does it do what was asked: a question for a question, an answer for an answer?"""

    type: Literal["task_validator"]
    miss: float = Field(default=0.0, ge=0, le=1)


class RelevanceMaskPart(Part):
    """Nothing for completions that are off the topic."""

    type: Literal["relevance"]
    model: str = Field(min_length=1)
    threshold: float = Field(default=0.3, ge=-1, le=1)


class DiversityPart(Part):
    """Less for completions close to others of the batch, or to ``history`` earlier ones to other prompts."""

    type: Literal["diversity"]
    model: str = Field(min_length=1)
    slope: float = Field(default=40.0, gt=0, le=1000)
    offset: float = Field(default=4.0, ge=0, le=1000)
    nearest: int = Field(default=2, ge=1, le=16)
    floor: float = Field(default=0.0, ge=0, le=1)
    history: int = Field(default=2000, ge=0, le=4096)


class LengthPart(Part):
    """Less for completions too short to say anything, or long-winded."""

    type: Literal["length"]
    min_chars: int = Field(default=20, ge=0, le=100_000)
    max_chars: int = Field(default=4000, ge=1, le=1_000_000)
    floor: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> LengthPart:
        if self.min_chars >= self.max_chars:
            raise ValueError("min_chars must be below max_chars")
        return self


class SiblingsPart(Part):
    """Near copies share one reward."""

    type: Literal["siblings"]
    similar: float = Field(default=0.9, gt=0, le=1)


class SafetyPart(Part):
    """A classifier over windows of 512 tokens that overlap by 64; serves POST /filter too."""

    model: str = Field(min_length=1)
    label: int | str = 1
    threshold: float = Field(default=0.5, gt=0, lt=1)
    mask: bool = True


AnyMask = Annotated[
    BlacklistPart | TaskValidatorPart | RelevanceMaskPart | DiversityPart | LengthPart | SiblingsPart,
    Field(discriminator="type"),
]


class StackConfig(Part):
    """The whole file."""

    name: str = Field("stack", pattern=NAME)
    function: tuple[AnyFunction, ...] = Field(min_length=1, max_length=16)
    mask: tuple[AnyMask, ...] = Field(default=(), max_length=16)
    safety: SafetyPart | None = None

    @model_validator(mode="after")
    def _distinct(self) -> StackConfig:
        names = [part.name or part.type for part in self.function]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two functions are called {name}; give one of them another name")
        kinds = [part.type for part in self.mask]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"there are two {kind} masks")
        if all(part.weight == 0 for part in self.function):
            raise ValueError("every weight is 0")
        return self


def read_config(path: Path | None, setting: str = "COREMESH_REWARD_STACK") -> StackConfig:
    """The stack in a TOML file; none: the bundled one. Raises BadSetting naming file, field, value and reason."""
    file = path or BUNDLED
    remedy = "docs/reward.md lists what a stack takes."
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except OSError as error:
        raise BadSetting(f"{setting} {file}: {error.strerror}", remedy="Name a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"{setting} {file}: {error}", remedy="Correct the TOML.") from None
    try:
        return StackConfig.model_validate(table)
    except ValidationError as error:
        raise BadSetting(f"{setting} {file}: {_explain(error)}", remedy=remedy) from None


def _explain(error: ValidationError) -> str:
    said: list[str] = []
    for detail in error.errors(include_url=False)[:5]:
        where = _where(detail["loc"]) or "the file"
        got: Any = detail.get("input")
        shown = f"got {got!r}; " if isinstance(got, str | int | float | bool) else ""
        said.append(f"{where}: {shown}{detail['msg'][0].lower()}{detail['msg'][1:]}")
    return "; ".join(said)


def _where(loc: tuple[int | str, ...]) -> str:
    """``function[0].weight``; the discriminator that pydantic puts after an index is left out."""
    out = ""
    after_index = False
    for step in loc:
        if isinstance(step, int):
            out += f"[{step}]"
        elif not after_index:
            out += f".{step}" if out else step
        after_index = isinstance(step, int)
    return out


def key_of(part: JudgePart) -> str:
    """The endpoint's key from the environment variable that the file names; a file never holds a secret."""
    if not part.key_variable:
        return ""
    key = os.environ.get(part.key_variable, "")
    if not key:
        raise BadSetting(
            f"{part.key_variable} is not set, and the judge at {part.base_url} needs it",
            remedy=f"Set the environment variable {part.key_variable}.",
        )
    return key
