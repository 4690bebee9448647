"""Small random models with a real tokenizer, saved as checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
)
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}### Human: {{ message['content'] }}\n"
    "{% else %}### Assistant: {{ message['content'] }}\n{% endif %}{% endfor %}"
)
# As Gemma's: no system messages, and turns that alternate.
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
)
CORPUS = [
    "Why is the sky blue? Because the air scatters blue light more than red light.",
    "user assistant system Human: Assistant: ### the quick brown fox jumps over the lazy dog 0123456789",
]


def tokenizer(
    template: str | None = None, *, bert: bool = False, segments: int = 1
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: with [CLS] and [SEP] around every text, or with the tokens of ChatML."""
    specials = ["[PAD]", "[CLS]", "[SEP]"] if bert else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(CORPUS, trainer)
    if not bert:
        found = PreTrainedTokenizerFast(
            tokenizer_object=raw,
            eos_token="<|endoftext|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=["<|im_start|>", "<|im_end|>"],
            model_max_length=512,
        )
    else:
        cls, sep = raw.token_to_id("[CLS]"), raw.token_to_id("[SEP]")
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1" if segments > 1 else "[CLS] $A [SEP] $B [SEP]",
            special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
        )
        found = PreTrainedTokenizerFast(
            tokenizer_object=raw,
            cls_token="[CLS]",
            sep_token="[SEP]",
            pad_token="[PAD]",
            model_max_length=512,
            model_input_names=["input_ids", *["token_type_ids"][: segments - 1], "attention_mask"],
        )
    found.chat_template = template
    return found


def save_classifier(
    folder: Path,
    *,
    template: str | None = None,
    bert: bool = False,
    labels: int = 1,
    segments: int = 1,
    family: str = "Bert",
) -> Path:
    """A sequence classifier of a few thousand random weights, spread so that scores differ.

    ``segments`` is how many types of tokens it knows, ``family`` which of BERT's it is of.
    """
    words = tokenizer(template, bert=bert, segments=segments)
    torch.manual_seed(7)
    shape = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "num_labels": labels,
        "pad_token_id": words.pad_token_id,
    }
    if bert:
        shape |= {"type_vocab_size": segments, "initializer_range": 0.1}
        if family == "DebertaV2":
            shape |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
        config = getattr(transformers, f"{family}Config")(**shape)
        model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    else:
        config = Qwen3Config(**shape, num_key_value_heads=1, head_dim=16)
        model = transformers.Qwen3ForSequenceClassification(config)
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and ("classifier" in name or "score" in name):
            torch.nn.init.normal_(weight, std=3.0 if weight.shape[0] == labels else 0.3)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_value_model(folder: Path) -> tuple[Path, Path]:
    """A causal model and, apart from it, a linear head in a safetensors file."""
    words = tokenizer()
    torch.manual_seed(9)
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=512,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
    )
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    head = folder.parent / "head.safetensors"
    save_file({"weight": torch.randn(1, 32)}, head)
    return folder, head


def one_by_one(folder: Path, texts: list[str]) -> list[list[float]]:
    """The logits of each text from plain transformers, no batches and no tricks."""
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [model(**words(text, return_tensors="pt")).logits[0].tolist() for text in texts]
