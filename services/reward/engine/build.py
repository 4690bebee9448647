"""Choosing how a model runs: packed where the engine knows its architecture and gets its numbers, else fallback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from services.reward.engine.attention_cpu import attention_of
from services.reward.engine.attention_gpu import GpuAttention, GpuFullAttention
from services.reward.engine.backend import Backend, DecoderBackend, EncoderBackend
from services.reward.engine.bert import Bert, FullAttention, PackedBert, bert_of, full_attention_of
from services.reward.engine.budget import TokenBudget
from services.reward.engine.deberta import CpuDisentangledAttention, deberta_of
from services.reward.engine.deberta_gpu import GpuDisentangledAttention
from services.reward.engine.decoder import PackedDecoder
from services.reward.engine.errors import ModelError
from services.reward.engine.fallback import Fallback, alike
from services.reward.engine.families import Unsupported, decoder_of
from services.reward.engine.plan import Ids


def decoder_backend(
    body: Any, head: torch.nn.Module, read_at: Callable[[Ids], int], max_tokens: int
) -> DecoderBackend:
    """A packed decoder; raises `Unsupported`."""
    decoder = decoder_of(body, head, max_tokens)
    on_cpu = decoder.embedding.device.type == "cpu"
    attention = attention_of(decoder.shape, decoder.embedding) if on_cpu else GpuAttention(decoder.shape)
    return DecoderBackend(PackedDecoder(decoder, attention), read_at)


def packed_body(body: Any, max_tokens: int) -> PackedDecoder:
    """A packed decoder for its states alone; raises `Unsupported`."""
    return decoder_backend(body, torch.nn.Identity(), lambda ids: len(ids) - 1, max_tokens).model


def encoder_model(body: Any, *, first_only: bool, separator: int | None = None) -> PackedBert:
    """A packed BERT, RoBERTa or DeBERTa; raises `Unsupported`."""
    on_cpu = body.device.type == "cpu"
    bert: Bert
    attention: FullAttention
    if body.config.model_type == "deberta-v2":
        bert, relative = deberta_of(body, first_only=first_only)
        attention = CpuDisentangledAttention(relative) if on_cpu else GpuDisentangledAttention(relative)
    else:
        bert = bert_of(body, first_only=first_only)
        attention = full_attention_of(bert) if on_cpu else GpuFullAttention()
    return PackedBert(bert, attention, first_only=first_only, separator=separator)


def proven(
    make: Callable[[], Backend],
    plain: Fallback,
    vocabulary: int,
    max_tokens: int,
    separator: int | None = None,
) -> tuple[Backend, str | None]:
    """`make()` if it agrees with transformers on a few probes, else `plain` and the reason.

    Whatever else it raises (a kernel that a GPU does not have, a layer that is built in another way) is a reason too.
    """
    try:
        packed = make()
    except Exception as error:
        return plain, unpackable(error)
    probes = probe_groups(vocabulary, max_tokens)
    if separator is not None:
        probes += [[[*ids[:9], separator, *ids[9:], separator][:max_tokens]] for ids in probes[0]]
    wanted = np.concatenate([plain.rows([[ids]], TokenBudget(1 << 20)) for group in probes for ids in group])
    try:
        found = packed.rows(probes, TokenBudget(1 << 20))
    except Exception as error:
        return plain, unpackable(error)
    worst = float(np.abs(found - wanted).max())
    if not alike(found, wanted, plain.model.dtype):
        return plain, f"the packed forward of this model differs from transformers' by {worst:.2g}"
    return packed, None


def unpackable(error: Exception) -> str:
    """Why a model is not packed that raised this when it was tried; raises it where no other way would work either."""
    if isinstance(error, Unsupported):
        return str(error)
    # A lost device, and a model that does not fit, fail transformers' way too.
    if isinstance(error, torch.AcceleratorError | ModelError):
        raise error
    return f"its packed forward fails here: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def probe_groups(vocabulary: int, max_tokens: int) -> list[list[list[int]]]:
    """A few token sequences that take every path: shared and unshared, short, and longer than a block."""
    draw = np.random.default_rng(7)

    def some(n: int) -> list[int]:
        return draw.integers(0, vocabulary, n).tolist()

    prefix = some(24)
    groups = [[prefix + some(3), prefix + some(30), prefix + some(1)], [some(1)], [some(150)]]
    return [[ids[:max_tokens] for ids in group] for group in groups]


def classifier_parts(model: Any) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor]]:
    """The body of a transformers sequence classifier, and its head from the states `[n, hidden]` that are read."""
    kind = model.config.model_type
    # The head must not hold on to the body, whose weights the packed form has in its own way.
    head = getattr(model, "classifier", None)
    if kind == "bert" and head is not None:
        # BERT's pooler belongs to its body.
        pooler = model.bert.pooler
        return model.bert, lambda x: head(pooler(x[:, None]))
    if kind == "deberta-v2" and head is not None:
        pooler = model.pooler
        return model.deberta, lambda x: head(pooler(x[:, None]))
    if kind in {"roberta", "xlm-roberta", "camembert"} and head is not None:
        return model.roberta, lambda x: head(x[:, None])
    if hasattr(model, "score"):
        return getattr(model, model.base_model_prefix, None) or model.model, model.score
    raise Unsupported(f"{kind} has no packed forward")


def packed_classifier(
    model: Any,
    pad: int | None,
    max_tokens: int,
    read_at: Callable[[Ids], int],
    separator: int | None = None,
) -> Backend:
    """The packed form of a transformers sequence classifier; raises `Unsupported`."""
    body, head = classifier_parts(model)
    if isinstance(head, torch.nn.Module):
        return decoder_backend(body, head, read_at, max_tokens)
    packed = encoder_model(body, first_only=True, separator=separator)
    return EncoderBackend(packed, lambda states, _: head(states))
