"""Mean log-probabilities against plain transformers, one completion at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from services.reward.engine import Group, ModelError
from services.reward.engine.logprob import load_logprob
from tests.unit.reward_engine import models

SMALL = {key: value for key, value in models.SIZES.items() if key != "num_labels"}
GPT = {
    "vocab_size": models.VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 320,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
CAUSAL: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16)),
    "tied": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**SMALL)),
    "gptj": lambda: tf.GPTJForCausalLM(tf.GPTJConfig(**GPT, rotary_dim=4)),
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT)),
    "cohere": lambda: tf.CohereForCausalLM(tf.CohereConfig(**SMALL, logit_scale=0.25)),
}
WHY = "Why is the sky blue?\n"
GROUPS = [
    Group(WHY, ("Because short waves scatter more.", "No", "é" * 30, "The quick brown fox " * 12, "No")),
    Group("", ("A text alone.", "x")),
    Group("Half a wo", ("rd", "")),
    Group("long " * 400, ("unread",)),
]


def plain(path: Path, prompt: str, completion: str) -> float:
    """As a textbook would: all logits, log_softmax, the mean over the completion's tokens."""
    words = tf.AutoTokenizer.from_pretrained(path)
    model = tf.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    encoded = words(prompt + completion, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"][:320], encoded["offset_mapping"][:320]
    own = [i for i in range(1, len(ids)) if spans[i][1] > len(prompt)]
    with torch.inference_mode():
        table = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    return float(np.mean([float(table[i - 1, ids[i]]) for i in own])) if own else math.nan


@pytest.mark.parametrize("name", CAUSAL)
def test_equal_to_plain_transformers(tmp_path: Path, name: str):
    path = models.saved(CAUSAL[name], models.byte_level(), tmp_path / name)
    scorer = load_logprob(path, token_budget=128)
    found = scorer.mean(GROUPS)
    assert [len(values) for values in found] == [len(g.completions) for g in GROUPS]
    wanted = [[plain(path, g.prompt, c) for c in g.completions] for g in GROUPS]
    assert np.concatenate(found) == pytest.approx(np.concatenate(wanted), abs=1e-5, nan_ok=True)
    assert np.isnan(found[2][1])
    assert np.isnan(found[3][0])
    assert len(set(np.round(found[0], 3))) == 4
    assert scorer.whole_logits is (name == "cohere")
    assert scorer.pads
    packed = name not in ("gpt2", "cohere")
    assert (scorer.why_fallback is None) is packed


def test_a_large_vocabulary_is_read_in_pieces(tmp_path: Path):
    path = models.saved(CAUSAL["qwen3"], models.byte_level(), tmp_path / "m")
    whole = np.concatenate(load_logprob(path).mean(GROUPS))
    pieces = np.concatenate(load_logprob(path, logits_at_once=3 * models.VOCABULARY).mean(GROUPS))
    assert pieces == pytest.approx(whole, abs=1e-6, nan_ok=True)


def test_nothing_gives_nothing_and_a_missing_model_is_named(tmp_path: Path):
    path = models.saved(CAUSAL["qwen3"], models.byte_level(), tmp_path / "m")
    assert load_logprob(path).mean([]) == []
    with pytest.raises(ModelError, match="nowhere"):
        load_logprob(tmp_path / "nowhere")
