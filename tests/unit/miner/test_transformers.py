from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from coremesh.errors import BadModel, Busy, DeadlineExceeded
from miner.backends.protocol import BackendFailed
from miner.backends.transformers import TransformersBackend
from tests.unit.miner.servers import ASKED, running_miner

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TURNS = [{"role": "user", "content": "What is ice?"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal model of two layers with a byte-level tokenizer and a chat template, as it is published."""
    path = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["ice is frozen water and water is wet ice"] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(path)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(fast), n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    # A model that has not been trained would otherwise end when it likes.
    model.generation_config.eos_token_id = None
    model.save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


async def said(
    backend: TransformersBackend, turns: list[dict[str, str]], timeout_s: float = 20.0
) -> list[str]:
    return [piece async for piece in backend.stream(turns, timeout_s=timeout_s)]


def by_hand(path: Path, text: str, tokens: int) -> str:
    """What plain transformers says, greedily, after ``text``."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    model = GPT2LMHeadModel.from_pretrained(path).eval()
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"][-(128 - tokens) :]])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


async def test_a_completion_is_that_of_the_model_after_its_chat_template(tiny: Path) -> None:
    backend = TransformersBackend(str(tiny), device="cpu", max_tokens=24, temperature=0)
    await backend.start()
    try:
        pieces = await said(backend, TURNS)
        assert "".join(pieces) == by_hand(tiny, "<|user|>What is ice?<|assistant|>", 24)
        long = [{"role": "user", "content": "ice and water " * 400}]
        assert "".join(await said(backend, long)) == by_hand(
            tiny, f"<|user|>{'ice and water ' * 400}<|assistant|>", 24
        )
    finally:
        await backend.close()


async def test_a_tokenizer_without_a_template_gets_lines(tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    backend = TransformersBackend(str(tmp_path), device="cpu", max_tokens=8, temperature=0)
    await backend.start()
    try:
        turns = [{"role": "system", "content": "Be brief."}, *TURNS]
        expected = by_hand(tiny, "system: Be brief.\nuser: What is ice?\nassistant:", 8)
        assert "".join(await said(backend, turns)) == expected
    finally:
        await backend.close()


async def test_a_template_that_refuses_roles_is_told_turns_that_alternate(tiny: Path, tmp_path: Path) -> None:
    strict = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + TEMPLATE
    )
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(strict)
    backend = TransformersBackend(str(tmp_path), device="cpu", max_tokens=8, temperature=0)
    await backend.start()
    try:
        told = "<|user|>Be brief.\n\nWhat is ice?<|assistant|>"
        turns = [{"role": "system", "content": "Be brief."}, *TURNS]
        assert "".join(await said(backend, turns)) == by_hand(tiny, told, 8)
        turns += [{"role": "assistant", "content": "Water."}, *TURNS, *TURNS]
        told += "Water.<|user|>What is ice?\n\nWhat is ice?<|assistant|>"
        assert "".join(await said(backend, turns)) == by_hand(tiny, told, 8)
        assert turns[0] == {"role": "system", "content": "Be brief."}
    finally:
        await backend.close()


def test_over_signed_http(tiny: Path) -> None:
    def make() -> TransformersBackend:
        return TransformersBackend(str(tiny), device="cpu", max_tokens=16, temperature=0)

    with running_miner(make) as miner:
        expected = by_hand(tiny, "<|system|>Be brief.<|user|>What is ice?<|assistant|>", 16)
        answer = miner.post(ASKED)
        assert (answer.status_code, answer.json()) == (200, {"completion": expected.strip()})
        streamed = miner.post(ASKED, accept="text/event-stream")
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert streamed.text.count("data: ") >= 2
        assert httpx.get(f"{miner.url}/readyz", trust_env=False).json()["checks"] == {"backend": "ok"}


async def test_bounds_on_the_queue_and_on_time(tiny: Path) -> None:
    backend = TransformersBackend(str(tiny), device="cpu", max_tokens=100, max_queue=1)
    await backend.start()
    try:
        # The worker is busy with the first, the second waits, the third finds no place.
        model = backend._model
        forward = model.forward
        model.forward = lambda *args, **kwargs: (time.sleep(0.05), forward(*args, **kwargs))[1]
        first = asyncio.create_task(said(backend, TURNS, 1.0))
        await asyncio.sleep(0.2)
        second = asyncio.create_task(said(backend, TURNS, 1.0))
        await asyncio.sleep(0.1)
        with pytest.raises(Busy):
            await said(backend, TURNS)
        # The first ends just before its deadline with what it has; the second was never begun or is cut short.
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert isinstance(results[0], list | DeadlineExceeded)
        assert isinstance(results[1], list | DeadlineExceeded)
        model.forward = forward
        assert await said(backend, TURNS)
    finally:
        await backend.close()


async def test_a_caller_that_goes_frees_the_model(tiny: Path) -> None:
    backend = TransformersBackend(str(tiny), device="cpu", max_tokens=100)
    await backend.start()
    try:
        model = backend._model
        forward = model.forward
        steps = 0

        def counted(*args: object, **kwargs: object) -> object:
            nonlocal steps
            steps += 1
            time.sleep(0.02)
            return forward(*args, **kwargs)

        model.forward = counted
        pieces = backend.stream(TURNS, timeout_s=30)
        await anext(pieces)
        await pieces.aclose()
        model.forward = forward
        assert await said(backend, TURNS)
        assert steps < 60
    finally:
        await backend.close()


async def test_a_failure_of_the_model_fails_one_request_only(tiny: Path) -> None:
    backend = TransformersBackend(str(tiny), device="cpu", max_tokens=8)
    await backend.start()
    try:
        model = backend._model
        forward = model.forward

        def broken(*args: object, **kwargs: object) -> object:
            raise RuntimeError("CUDA out of memory")

        model.forward = broken
        with pytest.raises(BackendFailed, match="the model failed: RuntimeError"):
            await said(backend, TURNS)
        model.forward = forward
        assert await said(backend, TURNS)
        assert await backend.problem() is None
    finally:
        await backend.close()
    assert await backend.problem() == "the model's thread has ended"


async def test_a_model_that_is_none(tmp_path: Path) -> None:
    backend = TransformersBackend(str(tmp_path), device="cpu")
    with pytest.raises(BadModel, match="cannot be loaded as a causal language model"):
        await backend.start()
    await backend.close()
