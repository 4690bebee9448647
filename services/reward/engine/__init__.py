"""The reward engine: scores and sentence vectors from local models, near the limit of the hardware.

It imports torch, transformers, numpy and the standard library only, so that it can be run and measured on a
GPU machine that has nothing else. Nothing here reads settings, logs, or talks to a network.
"""

from __future__ import annotations

from services.reward.engine.budget import TokenBudget
from services.reward.engine.classifier import Classifier, load_classifier, load_value_head
from services.reward.engine.encoder import Encoder, load_encoder
from services.reward.engine.errors import ModelError
from services.reward.engine.plan import Group
from services.reward.engine.text import clean, clean_all

__all__ = [
    "Classifier",
    "Encoder",
    "Group",
    "ModelError",
    "TokenBudget",
    "clean",
    "clean_all",
    "load_classifier",
    "load_encoder",
    "load_value_head",
]
