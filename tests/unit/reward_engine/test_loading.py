"""What is loaded, what is refused, and what says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import save_file

from services.reward.engine import Group, ModelError, load_classifier, load_value_head
from tests.unit.reward_engine import models

ModelPath = Callable[[str], Path]


def refused(path: Path, **settings: object) -> tuple[str, str]:
    with pytest.raises(ModelError) as caught:
        load_classifier(path, **settings)  # type: ignore[arg-type]
    assert caught.value.sentence.endswith(".")
    return caught.value.code, caught.value.remedy


def copied(path: Path, to: Path) -> Path:
    return Path(shutil.copytree(path, to))


def test_a_missing_model(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == ("model_missing", "Download it, or set another path.")


def test_pickled_weights_are_not_read(model_path: ModelPath, tmp_path: Path) -> None:
    path = copied(model_path("bert"), tmp_path / "m")
    model = tf.AutoModelForSequenceClassification.from_pretrained(path)
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    assert refused(path)[0] == "model_unsafe_format"


def test_remote_code_is_not_run(model_path: ModelPath, tmp_path: Path) -> None:
    path = copied(model_path("bert"), tmp_path / "m")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    (path / "evil.py").write_text("raise SystemExit('ran')")
    assert refused(path)[0] == "model_remote_code"


@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_a_model_without_its_head(name: str, model_path: ModelPath, tmp_path: Path) -> None:
    path = copied(model_path(name), tmp_path / "m")
    tf.AutoModel.from_pretrained(path).save_pretrained(path)
    assert refused(path)[0] == "model_incompatible"


def test_an_unknown_architecture_and_broken_files(model_path: ModelPath, tmp_path: Path) -> None:
    path = copied(model_path("bert"), tmp_path / "m")
    (path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError):
        load_classifier(path)
    (path / "config.json").write_text(json.dumps({"model_type": "made-up"}))
    assert refused(path)[0] == "model_incompatible"


def test_labels(tmp_path: Path) -> None:
    config = tf.BertConfig(**{**models.SIZES, "num_labels": 2}, id2label={0: "safe", 1: "unsafe"})
    path = models.saved(lambda: tf.BertForSequenceClassification(config), models.framed(), tmp_path / "m")
    both = load_classifier(path)
    unsafe = load_classifier(path, label="unsafe")
    assert both.labels == ("safe", "unsafe")
    logits = both.logits(["blue", "red and green"])
    assert logits.shape == (2, 2)
    np.testing.assert_array_equal(both.score_texts(["blue", "red and green"]), logits[:, 0])
    np.testing.assert_array_equal(unsafe.score_texts(["blue", "red and green"]), logits[:, 1])
    assert refused(path, label="rude") == ("label_unknown", "Use one of safe, unsafe or its number.")
    assert refused(path, label=2)[0] == "label_unknown"


def test_identity_is_of_the_weights(model_path: ModelPath, tmp_path: Path) -> None:
    path = model_path("bert")
    other = models.saved(models.ENCODERS["bert"], models.framed(), tmp_path / "m", seed=1)
    same = copied(path, tmp_path / "same")
    found = [load_classifier(p).identity for p in (path, same, other)]
    assert found[0] == found[1] != found[2]


def test_a_sliding_window_is_packed_only_within_it(tmp_path: Path) -> None:
    config = tf.MistralConfig(**models.SIZES, num_key_value_heads=2, sliding_window=32)
    path = models.saved(
        lambda: tf.MistralForSequenceClassification(config), models.byte_level(), tmp_path / "m"
    )
    whole = load_classifier(path)
    assert (whole.kind, whole.why_fallback) == (
        "fallback",
        "its attention slides over 32 tokens; set max_tokens to that or less",
    )
    within = load_classifier(path, max_tokens=32)
    assert (within.kind, within.max_tokens) == ("decoder", 32)
    groups = [Group("The sky is blue because short waves scatter. ", ("yes", "no"))]
    np.testing.assert_allclose(within.score(groups)[0], whole.score(groups)[0], atol=1e-5)


def test_max_tokens_cuts_like_the_tokenizer(model_path: ModelPath) -> None:
    short, whole = load_classifier(model_path("qwen3"), max_tokens=5), load_classifier(model_path("qwen3"))
    text = "Why is the sky blue? Because short waves scatter."
    kept = whole.tokenizer.decode(whole.tokenizer(text)["input_ids"][:5])
    np.testing.assert_allclose(short.score_texts([text]), whole.score_texts([kept]), atol=1e-6)
    with pytest.raises(ModelError, match="no tokens"):
        load_classifier(model_path("qwen3"), max_tokens=0)


@pytest.mark.parametrize(
    ("family", "aside"),
    [("Roberta", 1), ("XLMRoberta", 1), ("Camembert", 1), ("MPNet", 2), ("Bert", 0), ("Electra", 0)],
)
def test_a_text_never_has_more_tokens_than_there_are_positions(
    family: str, aside: int, tmp_path: Path
) -> None:
    sizes = {**models.SIZES, "max_position_embeddings": 40}
    config = getattr(tf, f"{family}Config")(**sizes)
    make = getattr(tf, f"{family}ForSequenceClassification")
    # This tokenizer knows no limit of its own.
    engine = load_classifier(models.saved(lambda: make(config), models.framed(), tmp_path / "m"))
    assert engine.max_tokens == 40 - aside
    ids = engine.tokens.of(["The sky is blue because short waves scatter. " * 9])
    assert len(ids[0]) == engine.max_tokens
    assert np.isfinite(engine.logits(ids)).all()


@pytest.fixture(scope="module")
def valued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A GPT-J and a value head, as two files."""
    root = tmp_path_factory.mktemp("value")
    config = tf.GPTJConfig(
        vocab_size=models.VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=200,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    path = models.saved(lambda: tf.GPTJForCausalLM(config), models.byte_level(), root / "gptj")
    save_file({"v_head.weight": torch.randn(1, 32)}, root / "head.safetensors")
    return path, root / "head.safetensors"


def test_value_head(valued: tuple[Path, Path]) -> None:
    path, head = valued
    engine = load_value_head(path, head)
    assert (engine.kind, engine.labels) == ("decoder", ("value",))
    body = tf.AutoModel.from_pretrained(path).eval()
    weight = torch.from_numpy(np.frombuffer(head.read_bytes()[-128:], dtype=np.float32).copy())

    def plain(text: str) -> float:
        with torch.inference_mode():
            ids = engine.tokenizer(text, return_tensors="pt", truncation=True, max_length=200)["input_ids"]
            ends = (ids[0] == 1).nonzero()
            at = max(0, int(ends[0]) - 1) if len(ends) else -1
            return float(body(ids).last_hidden_state[0, at] @ weight)

    groups = [
        Group(
            "<|startoftext|>Why is the sky blue? ", ("Short waves.<|endoftext|>", "No<|endoftext|>more", "x")
        ),
        Group("", ("<|endoftext|>", "y", "z " * 300)),
    ]
    wanted = np.array([plain(g.prompt + c) for g in groups for c in g.completions], dtype=np.float32)
    np.testing.assert_allclose(np.concatenate(engine.score(groups)), wanted, atol=1e-5)
    alone = np.array([plain(c) for g in groups for c in g.completions], dtype=np.float32)
    np.testing.assert_allclose(
        np.concatenate(engine.score_difference(groups, 3.0)),
        np.maximum(wanted + 3, 0) - np.maximum(alone + 3, 0),
        atol=2e-5,
    )


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.zeros(1, 31)},
        {"weight": torch.zeros(1, 32), "other": torch.zeros(1, 32)},
        {"weight": torch.zeros(1, 32), "extra": torch.zeros(3)},
        {"bias": torch.zeros(1)},
    ],
)
def test_heads_that_do_not_fit(
    tensors: dict[str, torch.Tensor], valued: tuple[Path, Path], tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(ModelError, match="not one vector of 32 numbers") as caught:
        load_value_head(valued[0], tmp_path / "head.safetensors")
    assert caught.value.code == "model_incompatible"


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"\x08\0\0\0\0\0\0\0" + b'{"a":12}']
)
def test_heads_that_are_not_safetensors(content: bytes, valued: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(content)
    with pytest.raises(ModelError):
        load_value_head(valued[0], tmp_path / "head.safetensors")
    with pytest.raises(ModelError) as caught:
        load_value_head(valued[0], tmp_path / "head.bin")
    assert caught.value.code == "model_missing"
