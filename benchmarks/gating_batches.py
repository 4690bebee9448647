"""What padding costs the encoder: ``python -m benchmarks.gating_batches`` (half a minute).

256 prompts of mixed length, as so many callers at once would have them encoded: packed, in padded batches of similar
length, and one by one. CPU time of one thread, the least of some rounds that take turns.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from coremesh.modelfiles import MINILM, resolve_model
from services.gating.encoder import SentenceEncoder

PROMPTS, ROUNDS = 256, 4
WORDS = (
    "what",
    "is",
    "the",
    "reason",
    "that",
    "rain",
    "falls",
    "from",
    "clouds",
    "over",
    "mountains",
    "while",
    "people",
    "sing",
    "old",
    "songs",
)


def prompts() -> list[str]:
    """Lengths are log-normal: half have fewer than 25 words, the longest 240."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.2, 0.9, PROMPTS).astype(int), 3, 240)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def main() -> None:
    torch.set_num_threads(1)
    path = resolve_model(MINILM)
    packed, padded = SentenceEncoder(path), SentenceEncoder(path, packed=False)
    texts = prompts()
    ways: dict[str, Callable[[], np.ndarray]] = {
        "packed": lambda: packed.encode(texts),
        "padded": lambda: padded.encode(texts),
        "one_by_one": lambda: np.concatenate([padded.encode([text]) for text in texts]),
    }
    least = dict.fromkeys(ways, float("inf"))
    vectors: dict[str, np.ndarray] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.thread_time()
            vectors[name] = way()
            least[name] = min(least[name], time.thread_time() - start)
    apart = max(float(np.abs(vectors["one_by_one"] - vectors[name]).max()) for name in ways)
    print(f"vectors are at most {apart:.1e} apart", file=sys.stderr)
    assert apart < 1e-5
    alone = least["one_by_one"]
    for name, seconds in least.items():
        row = {"value": round(seconds * 1e3, 1), "unit": "ms", "baseline": round(alone * 1e3, 1)}
        print(
            json.dumps({"metric": f"gating.encode_256_{name}"} | row | {"ratio": round(alone / seconds, 3)})
        )


if __name__ == "__main__":
    main()
