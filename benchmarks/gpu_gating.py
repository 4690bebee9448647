"""Gating's encoder on a GPU, and its head, with torch, transformers and numpy alone: `python -m benchmarks.gpu_gating`.

Bodies of all-MiniLM-L6-v2's shape and of BERT-large's, random weights, synthetic token ids of long-tailed lengths.
Reports prompts/s of `in_arrival_order` (padded batches as prompts come), `by_length` (padded batches of similar
length), `packed` (attention by similar lengths) and `packed_offsets` (one attention call that knows where texts end),
all of them with the same budget of tokens a batch, and the largest difference of an entry of the first 64 vectors from
fp32 one by one on the same device. The baseline of each is `in_arrival_order`. Then the head's update, EM sweep and
score at 4,096 hotkeys, in CPU time of one thread: the head is on no GPU. `--device cpu --tiny` runs the same program
anywhere.
"""

from __future__ import annotations

import os

# Before numpy is imported, as the service itself does: the head's small matrices are slower with more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from benchmarks import gating
from benchmarks.gpu import device_of, note, seconds
from benchmarks.gpu import emit as emit_row
from services.gating.forward import Forward

LONGEST = 256
ALONE = 64
OFFSETS = "packed_offsets"
Texts = list[list[int]]


def emit(metric: str, value: float, unit: str, baseline: float | None = None) -> None:
    emit_row(f"gpu_gating.{metric}", value, unit, baseline)


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


class InArrivalOrder(Forward):
    """Padded batches of the budget, in the order in which the texts came; fetched once, as the others are."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, "mean", packed=False)

    def __call__(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """See Forward."""
        with torch.inference_mode():
            found = [self._pad([texts[at] for at in batch]) for batch in arrivals(texts, self.budget)]
            return torch.nn.functional.normalize(torch.cat(found), dim=1).cpu().numpy()


def arrivals(texts: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Indices in their order; count times longest is at most ``budget``, or the batch has one."""
    batch: list[int] = []
    longest = 0
    for at, text in enumerate(texts):
        if batch and (len(batch) + 1) * max(longest, len(text)) > budget:
            yield batch
            batch, longest = [], 0
        batch.append(at)
        longest = max(longest, len(text))
    if batch:
        yield batch


def encoders(device: torch.device, tiny: bool, repeats: int, counts: Sequence[int]) -> None:
    texts = prompts(max(counts))
    lengths = np.array([len(text) for text in texts])
    note(
        f"{len(texts)} prompts: median {np.median(lengths):.0f} tokens, p99 {np.percentile(lengths, 99):.0f}, "
        f"{lengths.sum()} in all"
    )
    for name, model in bodies(tiny):
        encoder(name, model.to(device), texts, repeats, counts)


def encoder(name: str, model: Any, texts: Texts, repeats: int, counts: Sequence[int]) -> None:
    """All ways of one body, in fp32 and, on a GPU, in bf16 too. The model's type is changed."""
    device: torch.device = model.device
    single = Forward(model, "mean", packed=False)
    wanted = np.concatenate([single([text]) for text in texts[:ALONE]])
    alone = seconds(lambda: [single([text]) for text in texts[:ALONE]], device, repeats)
    emit(f"{name}.float32.one_by_one", len(wanted) / alone, "prompts/s")
    for dtype in [torch.float32] if device.type == "cpu" else [torch.float32, torch.bfloat16]:
        model = model.to(dtype)
        kind = f"{name}.{str(dtype).removeprefix('torch.')}"
        ways = {
            "in_arrival_order": InArrivalOrder(model),
            "by_length": Forward(model, "mean", packed=False),
            "packed": Forward(model, "mean", attention="similar"),
            OFFSETS: Forward(model, "mean", attention="offsets"),
        }
        for count in counts:
            compare(f"{kind}.n{count}", ways, texts[:count], wanted, device, repeats)


def compare(
    kind: str,
    ways: dict[str, Forward],
    texts: Texts,
    wanted: np.ndarray,
    device: torch.device,
    repeats: int,
) -> None:
    """Prompts/s of each way for so many texts at once, the first of them the baseline, and its error."""
    baseline: float | None = None
    for way, forward in ways.items():
        try:
            found = forward(texts)
        except (RuntimeError, TypeError, AttributeError) as error:
            if way != OFFSETS:
                raise
            # The kernel is CUDA's alone, and torch's own: another release may name it otherwise.
            note(f"{kind}.{way}: cannot run here: {str(error)[:100]}")
            continue
        rate = len(texts) / seconds(lambda forward=forward: forward(texts), device, repeats)
        emit(f"{kind}.{way}", rate, "prompts/s", baseline)
        baseline = baseline or rate
        compared = min(len(texts), len(wanted))
        emit(f"{kind}.{way}.max_error", float(np.abs(found[:compared] - wanted[:compared]).max()), "")


def head() -> None:
    """The times of ``benchmarks.gating`` on this machine's processor, under this benchmark's name."""
    torch.set_num_threads(1)
    gating.times(emit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small bodies and few prompts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["encoder", "head"], nargs="+")
    given = parser.parse_args()
    device = device_of(given.device)
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    note(f"{device_name}, torch {torch.__version__}")
    if not given.only or "encoder" in given.only:
        encoders(device, given.tiny, given.repeats, (64, 128) if given.tiny else (16, 256, 2048))
    if not given.only or "head" in given.only:
        head()


if __name__ == "__main__":
    main()
