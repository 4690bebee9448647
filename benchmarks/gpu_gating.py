"""Gating's encoder on a GPU, and its head, with torch, transformers and numpy alone: `python -m benchmarks.gpu_gating`.

Bodies of all-MiniLM-L6-v2's shape and of BERT-large's, random weights, synthetic token ids of long-tailed lengths.
Reports prompts/s of `in_arrival_order` (padded batches as prompts come), `by_length` (padded batches of similar
length), `packed` (attention by similar lengths) and `packed_offsets` (one attention call that knows where texts end),
all of them with the same budget of tokens a batch, and the largest difference of any vector's entry from fp32 one by
one on the same device. The baseline of each is `in_arrival_order`. Then the head's update, EM sweep and score at 4,096
hotkeys (CPU time). `--device cpu --tiny` runs the same program anywhere.
"""

from __future__ import annotations

import os

# Before numpy is imported, as the service itself does: the head's small matrices are slower with more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from benchmarks import gating
from services.gating.forward import Forward

LONGEST = 256
ALONE = 64
Texts = list[list[int]]


def emit(metric: str, value: float, unit: str, baseline: float | None = None) -> None:
    ratio = None if baseline is None else round(value / baseline, 3)
    row = {
        "metric": f"gpu_gating.{metric}",
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
    }
    print(json.dumps(row), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def bodies(tiny: bool) -> Iterator[tuple[str, Any]]:
    shapes = {"minilm": (384, 6, 12), "large": (1024, 24, 16)}
    if tiny:
        shapes = {"minilm": (48, 2, 4), "large": (64, 3, 4)}
    for name, (hidden, layers, heads) in shapes.items():
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            max_position_embeddings=512,
        )
        yield name, BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def prompts(count: int) -> Texts:
    """Token ids; lengths are log-normal: half have fewer than 33 tokens, a few are as long as texts may be."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.5, 0.9, count).astype(int), 4, LONGEST)
    return [rng.integers(1000, 30_000, length).tolist() for length in lengths]


def in_arrival_order(forward: Forward, texts: Texts) -> np.ndarray:
    """Padded batches of the budget, in the order in which the texts came."""
    found: list[np.ndarray] = []
    batch: Texts = []
    longest = 0
    for text in texts:
        if batch and (len(batch) + 1) * max(longest, len(text)) > forward.budget:
            found.append(forward(batch))
            batch, longest = [], 0
        batch.append(text)
        longest = max(longest, len(text))
    return np.concatenate([*found, forward(batch)])


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median of `repeats` timed calls after two that are not. Vectors are fetched: nothing is left running."""
    taken: list[float] = []
    for at in range(repeats + 2):
        start = time.perf_counter()
        call()
        if at >= 2:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def encoders(device: str, tiny: bool, repeats: int, counts: Sequence[int]) -> None:
    types = [torch.float32] if device == "cpu" else [torch.float32, torch.bfloat16]
    texts = prompts(max(counts))
    lengths = np.array([len(text) for text in texts])
    note(
        f"{len(texts)} prompts: median {np.median(lengths):.0f} tokens, p99 {np.percentile(lengths, 99):.0f}, "
        f"{lengths.sum()} in all"
    )
    for name, model in bodies(tiny):
        model = model.to(device)
        single = Forward(model, "mean", packed=False)
        wanted = np.concatenate([single([text]) for text in texts[:ALONE]])
        alone = seconds(lambda single=single: [single([text]) for text in texts[:ALONE]], repeats)
        emit(f"{name}.float32.one_by_one", ALONE / alone, "prompts/s")
        for dtype in types:
            model = model.to(dtype)
            kind = f"{name}.{str(dtype).removeprefix('torch.')}"
            padded = Forward(model, "mean", packed=False)
            ways: dict[str, tuple[Forward, Callable[[Forward, Texts], np.ndarray]]] = {
                "in_arrival_order": (padded, in_arrival_order),
                "by_length": (padded, Forward.__call__),
                "packed": (Forward(model, "mean"), Forward.__call__),
                "packed_offsets": (Forward(model, "mean", attention="offsets"), Forward.__call__),
            }
            for count in counts:
                compare(f"{kind}.n{count}", ways, texts[:count], wanted, repeats)
        del model
        if device != "cpu":
            torch.cuda.empty_cache()


def compare(
    kind: str,
    ways: dict[str, tuple[Forward, Callable[[Forward, Texts], np.ndarray]]],
    texts: Texts,
    wanted: np.ndarray,
    repeats: int,
) -> None:
    """Prompts/s and error of each way for so many texts at once."""
    baseline: float | None = None
    for way, (forward, encode) in ways.items():
        try:
            found = encode(forward, texts)
        except (RuntimeError, TypeError, AttributeError) as error:  # the kernel of offsets is CUDA's alone
            note(f"{kind}.{way}: cannot run here: {str(error)[:100]}")
            continue
        took = seconds(lambda encode=encode, forward=forward: encode(forward, texts), repeats)
        emit(f"{kind}.{way}", len(texts) / took, "prompts/s", baseline)
        baseline = baseline or len(texts) / took
        compared = min(len(texts), len(wanted))
        emit(f"{kind}.{way}.max_error", float(np.abs(found[:compared] - wanted[:compared]).max()), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small bodies and few prompts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["encoder", "head"], nargs="+")
    given = parser.parse_args()
    device_name = torch.cuda.get_device_name() if given.device != "cpu" else "cpu"
    note(f"{device_name}, torch {torch.__version__}")
    if not given.only or "encoder" in given.only:
        encoders(given.device, given.tiny, given.repeats, (64, 128) if given.tiny else (16, 256, 2048))
    if not given.only or "head" in given.only:
        torch.set_num_threads(1)
        gating.times()


if __name__ == "__main__":
    main()
