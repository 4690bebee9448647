"""The dpo function in a stack: policy minus reference, on the text that the policy's template renders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import Qwen3Config

from coremesh.errors import BadModel
from services.reward.batch import Batch, Turn
from services.reward.build import build
from services.reward.config import StackConfig
from services.reward.models import Models
from services.reward.statistics import Statistics
from services.reward.work import Inline
from tests.unit.reward.models import CHATML, tokenizer
from tests.unit.reward_engine.test_logprob import plain

TURNS = (Turn("user", "Why is the sky blue?"),)
COMPLETIONS = ("The air scatters blue light.", "No", "<|im_end|>yes", "")


def save_causal(folder: Path, seed: int, template: str | None = None, positions: int = 320) -> Path:
    words = tokenizer(template)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        initializer_range=0.3,
        max_position_embeddings=positions,
    )
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def config_of(policy: Path, reference: Path, **more: object) -> StackConfig:
    part = {"type": "dpo", "model": str(policy), "reference": str(reference), **more}
    return StackConfig.model_validate({"function": [part]})


@pytest.mark.parametrize("template", [None, CHATML])
async def test_it_is_the_policys_mean_minus_the_references(tmp_path: Path, template: str | None):
    policy, reference = (save_causal(tmp_path / str(i), i, template) for i in (1, 2))
    stack = build(config_of(policy, reference), Models()).stack
    scored = await stack.score(Batch(TURNS, COMPLETIONS, "answer", Inline()), Statistics())
    before, after = "Why is the sky blue?\n", ""
    if template:
        before, after = (
            "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>\n",
        )
    texts = [
        c.replace("<|im_end|>", " ").strip() if template else c.replace("<|im_end|>", " ")
        for c in COMPLETIONS
    ]
    wanted = [plain(policy, before, c + after) - plain(reference, before, c + after) for c in texts]
    if not template:
        wanted[3] = min([0.0, *wanted[:3]])
    assert scored.raw["dpo"].tolist() == pytest.approx(wanted, abs=1e-5)
    assert scored.rewards[3] <= 0
    assert len(set(scored.raw["dpo"].round(3).tolist())) >= 3


async def test_a_policy_is_no_better_than_itself(tmp_path: Path):
    policy = save_causal(tmp_path / "policy", 1)
    stack = build(config_of(policy, policy), Models()).stack
    scored = await stack.score(Batch(TURNS, COMPLETIONS[:2], "answer", Inline()), Statistics())
    assert scored.raw["dpo"].tolist() == [0.0, 0.0]


async def test_what_is_too_long_for_either_is_cut_with_the_template_whole(tmp_path: Path):
    policy = save_causal(tmp_path / "policy", 1, CHATML)
    reference = save_causal(tmp_path / "reference", 2, CHATML, positions=64)
    stack = build(config_of(policy, reference), Models()).stack
    long = tuple(text * 200 for text in ("blue light ", "red "))
    scored = await stack.score(Batch(TURNS, long, "answer", Inline()), Statistics())
    assert all(value != 0 for value in scored.raw["dpo"])


def test_the_version_follows_the_files_of_both(tmp_path: Path):
    a, b, c = (save_causal(tmp_path / str(i), i) for i in (1, 2, 3))
    versions = [build(config_of(*two), Models()).stack.version for two in ((a, b), (a, c), (c, b), (a, b))]
    assert len(set(versions[:3])) == 3
    assert versions[0] == versions[3]


def test_models_of_different_tokens_are_refused(tmp_path: Path):
    policy = save_causal(tmp_path / "policy", 1)
    other = save_causal(tmp_path / "other", 2)
    words = transformers.AutoTokenizer.from_pretrained(other)
    words.add_tokens(["anew"])
    words.save_pretrained(other)
    with pytest.raises(BadModel, match="different tokens"):
        build(config_of(policy, other), Models())
    with pytest.raises(BadModel, match="absent"):
        build(config_of(policy, tmp_path / "absent"), Models())
