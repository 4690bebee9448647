"""Models made once a session, and what plain transformers says of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from services.reward.engine import Classifier, load_classifier
from tests.unit.reward_engine import models

# Tiny models on a shared machine: more threads only wait for each other.
torch.set_num_threads(1)

ALL = {**models.DECODERS, **models.ENCODERS, **models.OTHERS}


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a small model by its name in `models`."""
    root = tmp_path_factory.mktemp("reward-models")

    def path(name: str) -> Path:
        if not (root / name).is_dir():
            decoder = name in models.DECODERS or name == "gpt2"
            models.saved(ALL[name], models.byte_level() if decoder else models.framed(), root / name)
        return root / name

    return path


@pytest.fixture(scope="session")
def classifier(model_path: Callable[[str], Path]) -> Callable[[str], Classifier]:
    """The engine's classifier by name; shared, so tests leave its budget alone."""
    loaded: dict[str, Classifier] = {}

    def load(name: str) -> Classifier:
        if name not in loaded:
            loaded[name] = load_classifier(model_path(name))
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def plain(model_path: Callable[[str], Path]) -> Callable[[str, Sequence[str]], np.ndarray]:
    """Logits `[n, labels]` of texts one by one through plain transformers."""
    loaded: dict[str, tuple[tf.PreTrainedModel, tf.PreTrainedTokenizerFast, int]] = {}

    def logits(name: str, texts: Sequence[str]) -> np.ndarray:
        if name not in loaded:
            model = tf.AutoModelForSequenceClassification.from_pretrained(model_path(name)).eval()
            tokenizer = tf.AutoTokenizer.from_pretrained(model_path(name))
            loaded[name] = model, tokenizer, 320
        model, tokenizer, limit = loaded[name]
        with torch.inference_mode():
            return np.concatenate(
                [
                    model(
                        **tokenizer(t, return_tensors="pt", truncation=True, max_length=limit)
                    ).logits.numpy()
                    for t in texts
                ]
            )

    return logits
