"""The reward engine on a GPU, with torch and transformers alone: `python -m benchmarks.gpu_reward`.

A decoder of Qwen3-0.6B's shape (K completions a prompt, plain and difference mode) and an encoder of
DeBERTa-v3-large's, random weights, synthetic token texts. Reports completions/s, tokens/s that the engine computes (a
shared prompt once), and what its projections and attention are of torch's peak in one large product. `max_abs_error` is
how far the engine's scores are from plain torch's in fp32 on the same device, in units of those scores' standard
deviation. Everything is measured with the kernels that the engine chose for this device and, `….plain.…`, without any;
`kernel.…` says for each what plain torch takes over what it takes, 0 for one that was not used, and standard error
says why. `--device cpu --tiny` runs the same program anywhere; on the CPU in fp32 the kernels are the ones that the
engine has there, and may be faster than torch's peak.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers as tf

from benchmarks import reward_data as data
from benchmarks.gpu import device_of, note, seconds, timed
from benchmarks.gpu import emit as emit_row
from services.reward.engine import Classifier, Group, fused, load_classifier
from services.reward.engine.attention_gpu import varlen_works
from services.reward.engine.plan import families

# Limits of an H200 (790 TFLOP/s bf16) in completions/s at K=50; the aim is half of them, on any card.
LIMITS = {"decoder": 9000.0, "decoder_diff": 4400.0, "deberta": 5200.0}
LIMITS_K = 50
KEYS_AND_VALUES = ("k_proj.weight", "v_proj.weight", "key_proj.weight", "value_proj.weight")


class Work(NamedTuple):
    """Operations (a multiply-add is two) of the projections and of attention, and tokens."""

    projections: float
    attention: float
    tokens: int

    @property
    def flops(self) -> float:
        """Together."""
        return self.projections + self.attention


def emit(metric: str, value: float, unit: str, baseline: float | None = None) -> None:
    emit_row(f"gpu_reward.{metric}", value, unit, baseline)


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


def peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Flop/s of a large square product, the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device, 10))


def computed(model: Any, groups: list[list[list[int]]], *, share: bool) -> Work:
    """What the engine computes for the token sequences of these groups; `share`: causally, a common prefix once.

    The last layer makes keys and values of every token, and the rest only where a score is read. Not counted:
    embeddings, norms, softmax, the head, DeBERTa's position terms.
    """
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    q = config.num_attention_heads * width
    layer = model.base_model.layers[0] if share else model.base_model.encoder.layer[0]
    weights = {name: p.numel() for name, p in layer.named_parameters() if p.dim() == 2}
    every = sum(weights.values())
    kv = sum(n for name, n in weights.items() if name.endswith(KEYS_AND_VALUES))
    below = config.num_hidden_layers - 1
    projections, attention, tokens = 0.0, 0.0, 0
    for group in groups:
        for prefix, own in families(
            [[(0, ids) for ids in group]] if share else [[(0, ids)] for ids in group]
        ):
            n = len(prefix) + sum(len(ids) for _, ids in own)
            pairs = len(prefix) ** 2 / 2 + sum(len(ids) * (len(prefix) + len(ids) / 2) for _, ids in own)
            pairs = pairs if share else 2 * pairs
            read = sum(len(prefix) + len(ids) for _, ids in own)
            projections += 2 * n * (below * every + kv) + 2 * len(own) * (every - kv)
            attention += 4 * q * (below * pairs + read)
            tokens += n
    return Work(projections, attention, tokens)


def loaded(path: Path, args: Any, dtype: torch.dtype) -> Classifier:
    """The engine for the model at `path`, which must be packed."""
    engine = load_classifier(path, device=args.device, dtype=dtype, token_budget=args.budget)
    if engine.why_fallback:
        raise SystemExit(f"{path.name}: not packed, {engine.why_fallback}")
    return engine


def measured(
    name: str,
    engine: Classifier,
    plain: Classifier,
    score: Callable[[Classifier], object],
    work: Work,
    args: Any,
) -> None:
    completions, repeats = args.prompts * args.k, args.repeats
    taken = seconds(lambda: score(engine), args.where, repeats)
    with fused.fixed({}):
        bare = seconds(lambda: score(plain), args.where, repeats)
    limit = None if args.tiny or args.k != LIMITS_K else LIMITS[name] / 2
    emit(f"{name}.completions_per_s.k{args.k}", completions / taken, "completions/s", limit)
    emit(f"{name}.plain.completions_per_s.k{args.k}", completions / bare, "completions/s", limit)
    emit(f"{name}.tokens_per_s.k{args.k}", work.tokens / taken, "tokens/s")
    emit(f"{name}.share_of_peak.k{args.k}", work.flops / taken / args.peak, "1")
    emit(f"{name}.oom_halvings", engine.oom_halvings, "1")


def tokenised(name: str, engine: Classifier, groups: list[Group], args: Any) -> None:
    """What the processor does for these texts before the device is asked, alone and in series."""
    texts = [g.prompt + c for g in groups for c in g.completions]
    taken = seconds(lambda: engine.tokens.of(texts), torch.device("cpu"), 1)
    emit(f"{name}.tokenise_ms.k{args.k}", taken * 1000, "ms")


def kernels(args: Any, dtype: torch.dtype) -> None:
    """What became of each of the engine's own kernels on this device."""
    for step in fused.steps(args.where):
        found = fused.verdict(step, args.where, dtype)
        note(f"{step}: {found.why}")
        emit(f"kernel.{step}", (found.speedup or 0.0) if found.kernel else 0.0, "plain/fused")


def engine_dtype(args: Any) -> torch.dtype:
    return getattr(torch, args.dtype or ("float32" if args.device == "cpu" else "bfloat16"))


def fp32_scores(path: Path, groups: list[Group], args: Any) -> np.ndarray:
    """By plain torch on the same device."""
    with fused.fixed({}):
        return np.concatenate(loaded(path, args, torch.float32).score(groups))


def error(engine: Classifier, groups: list[Group], exact: np.ndarray) -> float:
    """Largest difference of the engine's scores from `exact`, in standard deviations of those."""
    found = np.concatenate(engine.score(groups))
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
    args.where = device_of(args.device)
    args.prompts = args.prompts or (2 if args.tiny else 40)
    args.k = args.k or (8 if args.tiny else 50)
    dtype = engine_dtype(args)
    logging.disable(logging.WARNING)
    tf.utils.logging.disable_progress_bar()
    args.peak = peak(args.where, dtype, 512 if args.tiny else 8192)
    emit("gemm_peak", args.peak / 1e12, "TFLOP/s")
    groups = [Group(p, c) for p, c in data.groups(args.prompts, args.k)]
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("decoder", decoder), ("deberta", deberta)):
            model = make(args.tiny)
            path = data.saved(model, Path(folder) / name, framed=name == "deberta")
            exact = fp32_scores(path, groups[:2], args)
            engine = loaded(path, args, dtype)
            emit(f"{name}.max_abs_error", error(engine, groups[:2], exact), "standard deviations")
            # On the CPU kernels are chosen at loading, so that without them it is another engine.
            with fused.fixed({}):
                plain = loaded(path, args, dtype)
            ids = [engine.tokens.of([g.prompt + c for c in g.completions]) for g in groups]
            work = computed(model, ids, share=name == "decoder")
            measured(name, engine, plain, lambda e: e.score(groups), work, args)
            tokenised(name, engine, groups, args)
            if name == "decoder":
                alone = [engine.tokens.of(g.completions) for g in groups]
                both = computed(model, [*ids, *([one] for group in alone for one in group)], share=True)
                measured("decoder_diff", engine, plain, lambda e: e.score_difference(groups, 3.0), both, args)
                kept = varlen_works(args.where, dtype, model.config.head_dim)
                emit("decoder.variable_length_attention", float(kept), "1")
            del engine, plain
    # Those of the CPU are for fp32 alone.
    if args.where.type != "cpu" or dtype == torch.float32:
        kernels(args, dtype)


if __name__ == "__main__":
    main()
