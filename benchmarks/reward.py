"""The reward engine against the original's algorithm and the plain ways: `python -m benchmarks.reward`.

One thread, fp32, CPU time (the machine may be shared), medians of rounds in which the variants alternate, each on
the same texts. One JSON object a line on standard output, nothing else there. The plain ways run on a sample of the
texts, evenly spaced in the order of their lengths: a handful where the cost does not depend on the text (the original
pads everything), else as many as have the mean length of all within 1%. So do encoders, which share no prompts.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks import reward_data as data
from benchmarks.reward_ideal import ideal_flops, own_peak, peak
from benchmarks.reward_infinity import DEFAULT, SMALL, Infinity
from benchmarks.reward_original import LONGEST, SHIFT, Plain, difference
from services.reward.engine import Classifier, Group, fused, load_classifier

ROUNDS = 3
# Prompts for K completions: as many as fit in the time.
PROMPTS = {10: 16, 50: 4}
CHECKED, ORIGINAL, NAIVE = 8, 4, 24

Run = Callable[[], int]


def emit(metric: str, value: float, unit: str, baseline: float | None, ratio: float | None) -> None:
    row = {"metric": f"reward.{metric}", "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}
    print(json.dumps({k: round(v, 9) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def rates(variants: dict[str, Run], beside: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Completions a CPU-second of each variant: the median of alternating rounds. `beside` is called before each run,
    which is warm already."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    counts: dict[str, int] = {}
    for number in range(ROUNDS):
        for name, run in variants.items():
            beside()
            started = time.process_time()
            counts[name] = run()
            seconds[name].append(time.process_time() - started)
            note(f"  round {number + 1} {name}: {counts[name] / seconds[name][-1]:.2f} completions/s")
    return {name: counts[name] / statistics.median(taken) for name, taken in seconds.items()}


def sample(items: Sequence[str], n: int) -> list[str]:
    """`n` of the items, evenly spaced in the order of their lengths."""
    ordered = sorted(items, key=len)
    return [ordered[(2 * i + 1) * len(ordered) // (2 * n)] for i in range(n)]


def against(name: str, baseline: str, found: dict[str, float]) -> None:
    emit(name, found["engine"], "completions/s", found[baseline], found["engine"] / found[baseline])


def decoder_difference(path: Path, errors: list[float]) -> None:
    engine, plain = load_classifier(path, max_tokens=LONGEST), Plain(path)
    for k, prompts in PROMPTS.items():
        groups = [Group(p, c) for p, c in data.groups(prompts, k, seed=k)]
        pairs = [(g.prompt + c, c) for g in groups for c in g.completions]
        alone = dict(pairs)
        assert len(alone) == len(pairs)
        checked, few, some = (sample(list(alone), n) for n in (CHECKED, ORIGINAL, NAIVE))
        scores: dict[str, float] = {}

        def run_engine(
            groups: list[Group] = groups,
            scores: dict[str, float] = scores,
            alone: dict[str, str] = alone,
        ) -> int:
            found = np.concatenate(engine.score_difference(groups, SHIFT)).tolist()
            scores |= dict(zip(alone, found, strict=True))
            return len(found)

        def run_original(few: list[str] = few, alone: dict[str, str] = alone) -> int:
            difference(plain.original(few), plain.original([alone[b] for b in few]))
            return len(few)

        def run_naive(some: list[str] = some, alone: dict[str, str] = alone) -> int:
            difference(plain.one_by_one(some), plain.one_by_one([alone[b] for b in some]))
            return len(some)

        engine.score_difference(groups[:1], SHIFT)
        reference = difference(plain.one_by_one(checked), plain.one_by_one([alone[b] for b in checked]))
        peaks: list[float] = []
        own: list[float] = []

        def measure_peaks(peaks: list[float] = peaks, own: list[float] = own) -> None:
            peaks.append(peak(plain.model.config))
            own.append(own_peak(plain.model.config))

        found = rates(
            {"engine": run_engine, "original": run_original, "naive": run_naive},
            measure_peaks,
        )
        errors.append(float(np.abs(reference - np.array([scores[b] for b in checked])).max()))
        against(f"decoder_diff_vs_original.k{k}", "original", found)
        against(f"decoder_diff_vs_naive.k{k}", "naive", found)
        if k == 50:
            top, ours = statistics.median(peaks), statistics.median(own)
            ideal = len(pairs) * top / ideal_flops(plain.model, engine, groups)
            share = found["engine"] / ideal
            emit("decoder_diff_of_ideal.k50", found["engine"], "completions/s", ideal, share)
            # The ideal is what MKL's and oneDNN's products allow; the engine's own may be faster than those.
            emit("products_vs_library", ours / 1e9, "GFLOP/s", top / 1e9, ours / top)


def encoder(name: str, path: Path, errors: list[float], infinity: Infinity | None) -> None:
    engine, plain = load_classifier(path, max_tokens=LONGEST), Plain(path)
    groups = [Group(p, c) for p, c in data.groups(PROMPTS[10], 10, seed=1)]
    texts = [g.prompt + c for g in groups for c in g.completions]
    # Texts are read one by one, whichever prompt they have: half of them, evenly spaced, are as good as all.
    few, checked, half = (sample(texts, n) for n in (ORIGINAL, CHECKED, len(texts) // 2))
    # Both are warm then.
    errors.append(float(np.abs(engine.score_texts(checked) - plain.one_by_one(checked)).max()))
    variants: dict[str, Run] = {
        "engine": lambda: len(engine.score_texts(half)),
        "original": lambda: len(plain.original(few)),
    }
    found = rates(variants)
    against(f"{name}_vs_original", "original", found)
    if infinity is not None:
        beside_infinity(engine, path, groups[::2], infinity)


def beside_infinity(engine: Classifier, path: Path, groups: list[Group], infinity: Infinity) -> None:
    """Rounds that alternate, with infinity at its default batch size and at a small one."""
    ours: list[float] = []
    theirs: list[dict[int, float]] = []
    with infinity.serving(path, [(g.prompt, list(g.completions)) for g in groups]) as running:
        running.warm()
        for number in range(ROUNDS):
            started = time.process_time()
            count = _count(engine, groups)
            ours.append(count / (time.process_time() - started))
            theirs.append(running.rates())
            note(f"  round {number + 1} engine: {ours[-1]:.2f}, infinity-emb: {theirs[-1]} completions/s")
    for metric, batch in (("bert_vs_infinity", DEFAULT), (f"bert_vs_infinity.batch{SMALL}", SMALL)):
        rates = [found[batch] for found in theirs]
        ratio = statistics.median(a / b for a, b in zip(ours, rates, strict=True))
        emit(metric, statistics.median(ours), "completions/s", statistics.median(rates), ratio)


def _count(engine: Classifier, groups: list[Group]) -> int:
    return sum(map(len, engine.score(groups)))


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    errors: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        note("decoder 6x512, difference mode")
        decoder_difference(data.saved(data.decoder(), root / "decoder", framed=False), errors)
        note("BERT 6x512")
        encoder("bert", data.saved(data.bert(), root / "bert", framed=True), errors, Infinity.find())
        note("DeBERTa 6x512")
        encoder("deberta", data.saved(data.deberta(), root / "deberta", framed=True), errors, None)
    for step, became in fused.report().items():
        note(f"{step}: {became}")
    emit("max_abs_error", max(errors), "logits", 1e-5, 1e-5 / max(max(errors), 1e-12))


if __name__ == "__main__":
    main()
