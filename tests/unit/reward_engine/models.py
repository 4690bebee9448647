"""Small random models and tokenizers, built from configurations and saved as the hub would hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CORPUS = [
    "A validator asks many miners the same question and pays for the best answer.",
    "The quick brown fox jumps over the lazy dog, twice: 12 + 30 = 42.",
    "def score(texts): return [len(t) for t in texts]  # naïve, but über-fast ✓",
    "Why is the sky blue? Because short waves scatter more than long ones.",
]
VOCABULARY = 400


def byte_level() -> Any:
    """A byte-level BPE tokenizer as decoders have: nothing added around a text."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS * 3,
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet),
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


def framed() -> Any:
    """The same pieces with a first and a last token around each text, as encoders have."""
    raw = Tokenizer(models.BPE(unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS * 3,
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet),
    )
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
    "num_labels": 1,
    "max_position_embeddings": 320,
    "bos_token_id": None,
    "eos_token_id": 1,
}
RELATIVE: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}

Make = Callable[[], Any]

DECODERS: dict[str, Make] = {
    "qwen3": lambda: tf.Qwen3ForSequenceClassification(
        tf.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16)
    ),
    "llama": lambda: tf.LlamaForSequenceClassification(
        tf.LlamaConfig(**SIZES, num_key_value_heads=4, attention_bias=True)
    ),
    "llama3-positions": lambda: tf.LlamaForSequenceClassification(
        tf.LlamaConfig(
            **SIZES,
            num_key_value_heads=1,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        )
    ),
    "gpt_neox": lambda: tf.GPTNeoXForSequenceClassification(tf.GPTNeoXConfig(**SIZES, rotary_pct=0.25)),
    "gpt_neox-serial": lambda: tf.GPTNeoXForSequenceClassification(
        tf.GPTNeoXConfig(**SIZES, use_parallel_residual=False)
    ),
    "gptj": lambda: tf.GPTJForSequenceClassification(
        tf.GPTJConfig(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=3,
            n_head=4,
            rotary_dim=4,
            n_positions=320,
            num_labels=1,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    ),
}
ENCODERS: dict[str, Make] = {
    "bert": lambda: tf.BertForSequenceClassification(tf.BertConfig(**SIZES)),
    "roberta": lambda: tf.RobertaForSequenceClassification(
        tf.RobertaConfig(**{**SIZES, "max_position_embeddings": 321, "pad_token_id": 0})
    ),
    "deberta-v3": lambda: tf.DebertaV2ForSequenceClassification(
        tf.DebertaV2Config(
            **SIZES,
            **RELATIVE,
            position_buckets=32,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            position_biased_input=False,
        )
    ),
    "deberta-v2-unbucketed": lambda: tf.DebertaV2ForSequenceClassification(
        tf.DebertaV2Config(**SIZES, **RELATIVE, position_buckets=-1, max_relative_positions=20)
    ),
    "deberta-v2-unshared": lambda: tf.DebertaV2ForSequenceClassification(
        tf.DebertaV2Config(
            **SIZES, **{**RELATIVE, "pos_att_type": ["c2p"]}, position_buckets=16, share_att_key=False
        )
    ),
}
# Architectures without a packed forward: one that pads well, and one whose state runs over padding.
OTHERS: dict[str, Make] = {
    "electra": lambda: tf.ElectraForSequenceClassification(tf.ElectraConfig(**SIZES, embedding_size=32)),
    "gpt2": lambda: tf.GPT2ForSequenceClassification(
        tf.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=320,
            num_labels=1,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    ),
}


def shaken(model: Any) -> Any:
    """The model with every weight moved away from its initial zeros and ones, so that each of them matters."""
    for parameter in model.parameters():
        center = 1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0
        torch.nn.init.normal_(parameter, center, 0.15)
    return model.eval()


def saved(make: Make, tokenizer: Any, path: Path, seed: int = 0) -> Path:
    """`path`, holding the model and its tokenizer."""
    torch.manual_seed(seed)
    shaken(make()).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
