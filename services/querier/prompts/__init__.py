"""The bundled prompts and questions."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from coremesh.settings import TrainerSettings

_PACKAGE = "services.querier.prompts"


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the training loop says."""

    base: str
    question: str
    follow_up: str
    summary: str


def load_prompts(settings: TrainerSettings) -> Prompts:
    """The prompts of the settings, the bundled ones where none is set."""
    bundled = tomllib.loads(files(_PACKAGE).joinpath("prompts.toml").read_text(encoding="utf-8"))
    return Prompts(
        base=settings.base_prompt or bundled["base"].strip(),
        question=settings.question_prompt or bundled["question"].strip(),
        follow_up=settings.follow_up_prompt or bundled["follow_up"].strip(),
        summary=settings.summary_prompt or bundled["summary"].strip(),
    )


def load_questions() -> tuple[str, ...]:
    """The bundled questions."""
    lines = files(_PACKAGE).joinpath("questions.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line)["text"] for line in lines if line.strip())
