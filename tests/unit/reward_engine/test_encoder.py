"""Sentence vectors are those of transformers with the model's own pooling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from services.reward.engine import ModelError, load_encoder
from tests.unit.reward_engine import models

TEXTS = ["a", "The sky is blue.", "because " * 90, "", "The sky is blue."]


def wanted(path: Path, pooling: str) -> np.ndarray:
    model = tf.AutoModel.from_pretrained(path).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(path)
    rows = []
    for text in TEXTS:
        with torch.inference_mode():
            encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
            states = model(**encoded).last_hidden_state[0]
        row = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        rows.append((row / row.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v3", "electra"])
@pytest.mark.parametrize(
    ("mode", "pooling"),
    [
        (None, "mean"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_lasttoken", "last"),
    ],
)
def test_vectors(name: str, mode: str | None, pooling: str, tmp_path: Path) -> None:
    make = {**models.ENCODERS, **models.OTHERS}[name]
    path = models.saved(make, models.framed(), tmp_path / "model")
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    if mode:
        (path / "1_Pooling").mkdir()
        flags = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": False, mode: True}
        (path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **flags}))
    encoder = load_encoder(path)
    assert (encoder.dim, encoder.kind) == (32, "fallback" if name == "electra" else "encoder")
    vectors = encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors, wanted(path, pooling), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert encoder.encode([]).shape == (0, 32)


def test_identity_changes_with_the_pooling(model_path: Callable[[str], Path], tmp_path: Path) -> None:
    path = models.saved(models.ENCODERS["bert"], models.framed(), tmp_path / "model")
    first = load_encoder(path).identity
    assert load_encoder(path).identity == first
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert load_encoder(path).identity != first


def test_pooling_that_is_not_known(tmp_path: Path) -> None:
    path = models.saved(models.ENCODERS["bert"], models.framed(), tmp_path / "model")
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError, match="max_tokens") as caught:
        load_encoder(path)
    assert caught.value.code == "model_incompatible"
