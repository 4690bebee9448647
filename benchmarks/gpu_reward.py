"""The reward engine on a GPU, with torch and transformers alone: `python -m benchmarks.gpu_reward`.

A decoder of Qwen3-0.6B's shape (K completions a prompt, plain and difference mode) and an encoder of
DeBERTa-v3-large's, random weights, synthetic token texts. Reports completions/s, tokens/s and the share of the
measured peak of matrix products. Half types are compared with fp32 on the same GPU first: `max_abs_error` is in
units of the fp32 scores' standard deviation. Everything is measured with the fused kernels that the engine chose for
this device and, `…plain.…`, without any; `kernel.…` says for each what plain torch takes over what it takes, 0 for one
that was not used, and standard error says why. `--device cpu --tiny` runs the same program anywhere.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf

from benchmarks import reward_data as data
from services.reward.engine import Classifier, Group, fused, load_classifier
from services.reward.engine.attention_gpu import varlen_works
from services.reward.engine.plan import families

# Limits of an H200 (790 TFLOP/s bf16) in completions/s at K=50; the aim is half of them, on any card.
LIMITS = {"decoder": 9000.0, "decoder_diff": 4400.0, "deberta": 5200.0}


def emit(metric: str, value: float, unit: str, baseline: float | None = None) -> None:
    ratio = None if baseline is None else value / baseline
    row = {
        "metric": f"gpu_reward.{metric}",
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
    }
    print(json.dumps(row), flush=True)


def decoder(tiny: bool) -> Any:
    shape: dict[str, Any] = {
        "hidden_size": 64 if tiny else 1024,
        "num_hidden_layers": 2 if tiny else 28,
        "num_attention_heads": 4 if tiny else 16,
        "num_key_value_heads": 2 if tiny else 8,
        "head_dim": 16 if tiny else 128,
        "intermediate_size": 96 if tiny else 3072,
    }
    return tf.Qwen3ForSequenceClassification(tf.Qwen3Config(**(data.SIX_BY_512 | shape)))


def deberta(tiny: bool) -> Any:
    shape: dict[str, Any] = {
        "hidden_size": 64 if tiny else 1024,
        "num_hidden_layers": 2 if tiny else 24,
        "num_attention_heads": 4 if tiny else 16,
        "intermediate_size": 96 if tiny else 4096,
        "type_vocab_size": 0,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 256,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    }
    return tf.DebertaV2ForSequenceClassification(tf.DebertaV2Config(**(data.SIX_BY_512 | shape)))


def seconds(call: Callable[[], Any], device: str, repeats: int) -> float:
    """The median of `repeats` timed calls after one that is not."""
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return sorted(taken[1:])[repeats // 2]


def peak(device: str, dtype: torch.dtype, size: int) -> float:
    """Flop/s of a large square product, the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: a @ b, device, 1) for _ in range(10))


def computed(model: Any, groups: list[list[list[int]]], *, share: bool) -> tuple[float, int]:
    """Flops of the projections and of attention, and tokens, that the engine computes for these groups."""
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    q = config.num_attention_heads * width
    layer = model.base_model.layers[0] if share else model.base_model.encoder.layer[0]
    weights = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
    flops, tokens = 0.0, 0
    for group in groups:
        for prefix, own in families(
            [[(0, ids) for ids in group]] if share else [[(0, ids)] for ids in group]
        ):
            n = len(prefix) + sum(len(ids) for _, ids in own)
            pairs = len(prefix) ** 2 / 2 + sum(len(ids) * (len(prefix) + len(ids) / 2) for _, ids in own)
            pairs = pairs if share else 2 * pairs
            flops += config.num_hidden_layers * (2 * n * weights + 4 * pairs * q)
            tokens += n
    return flops, tokens


def measured(
    name: str, engine: Classifier, call: Callable[[], Any], work: tuple[float, int], args: Any
) -> None:
    completions, repeats, top = args.prompts * args.k, args.repeats, args.peak
    taken = seconds(call, args.device, repeats)
    with fused.fixed({}):
        plain = seconds(call, args.device, repeats)
    limit = None if args.tiny else LIMITS[name] / 2
    emit(f"{name}.completions_per_s.k{args.k}", completions / taken, "completions/s", limit)
    emit(f"{name}.plain.completions_per_s.k{args.k}", completions / plain, "completions/s", limit)
    emit(f"{name}.tokens_per_s.k{args.k}", work[1] / taken, "tokens/s")
    emit(f"{name}.share_of_peak.k{args.k}", work[0] / taken / top, "1")
    emit(f"{name}.oom_halvings", engine.oom_halvings, "1")


def measured_parts(name: str, engine: Classifier, groups: list[Group], args: Any) -> None:
    """What the processor does for these texts before the device is asked, alone and in series."""
    texts = [g.prompt + c for g in groups for c in g.completions]
    emit(f"{name}.tokenise_ms.k{args.k}", seconds(lambda: engine.tokens.of(texts), "cpu", 1) * 1000, "ms")
    if args.device != "cpu":
        kept = varlen_works(torch.device(args.device), engine_dtype(args), 64)
        emit(f"{name}.variable_length_attention", float(kept), "1")


def kernels(args: Any) -> None:
    """What became of each of the engine's own kernels on this device."""
    device = torch.device(args.device)
    for step in fused.steps(device):
        found = fused.verdict(step, device, engine_dtype(args))
        print(f"{step}: {found.why}", file=sys.stderr)
        emit(f"kernel.{step}", (found.speedup or 0.0) if found.kernel else 0.0, "plain/fused")


def engine_dtype(args: Any) -> torch.dtype:
    return getattr(torch, args.dtype or ("float32" if args.device == "cpu" else "bfloat16"))


def error(path: Path, groups: list[Group], args: Any, dtype: torch.dtype) -> float:
    """Largest difference of the scores from fp32's on the same device, in standard deviations of those."""
    few = groups[:2]
    exact = np.concatenate(load_classifier(path, device=args.device).score(few))
    found = np.concatenate(load_classifier(path, device=args.device, dtype=dtype).score(few))
    return float(np.abs(exact - found).max() / max(float(exact.std()), 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="", choices=["", "float32", "bfloat16", "float16"])
    parser.add_argument("--tiny", action="store_true", help="small shapes and few texts, to see that it runs")
    parser.add_argument("--k", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=int, default=16_384)
    args = parser.parse_args()
    args.prompts = args.prompts or (2 if args.tiny else 40)
    args.k = args.k or (8 if args.tiny else 50)
    dtype = engine_dtype(args)
    logging.disable(logging.WARNING)
    tf.utils.logging.disable_progress_bar()
    args.peak = peak(args.device, dtype, 512 if args.tiny else 8192)
    emit("gemm_peak", args.peak / 1e12, "TFLOP/s")
    groups = [Group(p, c) for p, c in data.groups(args.prompts, args.k)]
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("decoder", decoder), ("deberta", deberta)):
            model = make(args.tiny)
            path = data.saved(model, Path(folder) / name, framed=name == "deberta")
            emit(f"{name}.max_abs_error", error(path, groups, args, dtype), "standard deviations")
            engine = load_classifier(path, device=args.device, dtype=dtype, token_budget=args.budget)
            if engine.why_fallback:
                raise SystemExit(f"{name}: not packed, {engine.why_fallback}")
            ids = [engine.tokens.of([g.prompt + c for c in g.completions]) for g in groups]
            work = computed(model, ids, share=name == "decoder")
            measured(name, engine, lambda e=engine: e.score(groups), work, args)
            measured_parts(name, engine, groups, args)
            if name == "decoder":
                alone = [engine.tokens.of(g.completions) for g in groups]
                both = computed(model, [*ids, *([one] for group in alone for one in group)], share=True)
                measured("decoder_diff", engine, lambda e=engine: e.score_difference(groups, 3.0), both, args)
            del engine
    if args.device != "cpu":
        kernels(args)


if __name__ == "__main__":
    main()
