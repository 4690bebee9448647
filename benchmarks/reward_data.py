"""Models and texts of the reward benchmark: random weights, long-tailed lengths, nothing downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = 8000
LONGEST = 550
# Mean tokens of a prompt and of a completion, log-normal, and the bounds of each.
PROMPT, COMPLETION, SPREAD, LEAST, MOST = 125, 80, 0.8, 4, 380

SIX_BY_512: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_labels": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "max_position_embeddings": 576,
}


def tokenizer(*, framed: bool) -> Any:
    """One token a word (`w17`), framed by [CLS] and [SEP] as encoders have it, or bare."""
    vocabulary = {"[PAD]": 0, "[EOS]": 1, "[CLS]": 2, "[SEP]": 3, "[UNK]": 4}
    vocabulary |= {f"w{i}": i for i in range(5, WORDS)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    if framed:
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    # What is longer than the model takes is cut: infinity-emb asks the tokenizer alone.
    return tf.PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=LONGEST, **names)


def decoder() -> Any:
    """6 layers of 512, gated MLP, grouped queries, a scalar head: the shape of today's reward models, small."""
    config = tf.Qwen3Config(**SIX_BY_512, num_key_value_heads=4, head_dim=64, intermediate_size=1536)
    return tf.Qwen3ForSequenceClassification(config)


def bert() -> Any:
    """6 layers of 512."""
    return tf.BertForSequenceClassification(tf.BertConfig(**SIX_BY_512, intermediate_size=2048))


def deberta() -> Any:
    """6 layers of 512 with the attention of DeBERTa-v3."""
    config = tf.DebertaV2Config(
        **SIX_BY_512,
        intermediate_size=2048,
        type_vocab_size=0,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=256,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
    )
    return tf.DebertaV2ForSequenceClassification(config)


def saved(model: Any, path: Path, *, framed: bool) -> Path:
    """`path`, holding the model with its tokenizer; its weights large enough to tell texts apart."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, 0.0, 0.04)
    model.save_pretrained(path)
    tokenizer(framed=framed).save_pretrained(path)
    # The class name that transformers 4 (infinity-emb needs it) and 5 both know.
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return path


def lengths(mean: float, n: int, draw: np.random.Generator) -> list[int]:
    """`n` lengths at evenly spaced quantiles of a log-normal of that mean, in random order.

    Quantiles, not draws: a handful of prompts then have the mean and the tail of thousands.
    """
    normal = torch.distributions.Normal(0.0, 1.0)
    quantiles = normal.icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n).numpy()
    found = np.exp(np.log(mean) - SPREAD**2 / 2 + SPREAD * quantiles)
    return draw.permutation(np.clip(found.round(), LEAST, MOST).astype(int)).tolist()


def groups(prompts: int, completions: int, seed: int = 0) -> list[tuple[str, tuple[str, ...]]]:
    """Prompts, each with its completions; every text of words drawn anew."""
    draw = np.random.default_rng(seed)

    def text(n: int) -> str:
        return "".join(f" w{i}" for i in draw.integers(5, WORDS, n))

    own = iter(lengths(COMPLETION, prompts * completions, draw))
    return [
        (text(n), tuple(text(next(own)) for _ in range(completions))) for n in lengths(PROMPT, prompts, draw)
    ]
