"""What the engine is measured against: the original's way of scoring, and the plain ways.

The original (see REFERENCE.md) padded every text to 550 tokens and doubled every batch, because its model had
been trained on pairs. Here that algorithm has everything else in its favour: fused attention, no gradients, no
unused outputs, a fast tokenizer, and the batch size that was fastest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf

LONGEST = 550
SHIFT = 3.0


class Plain:
    """A sequence classifier in transformers, and the two ways to call it."""

    def __init__(self, path: Path) -> None:
        self.model: Any = tf.AutoModelForSequenceClassification.from_pretrained(path).eval()
        self.tokenizer: Any = tf.AutoTokenizer.from_pretrained(path)

    @torch.inference_mode()
    def original(self, texts: Sequence[str], batch: int = 1) -> np.ndarray:
        """`[n]` scores: batches padded to 550 tokens, every one of them doubled, half of the answer dropped."""
        found = []
        for start in range(0, len(texts), batch):
            encoded = self.tokenizer(
                list(texts[start : start + batch]),
                truncation=True,
                max_length=LONGEST,
                padding="max_length",
                return_tensors="pt",
            )
            ids, mask = encoded["input_ids"].repeat(2, 1), encoded["attention_mask"].repeat(2, 1)
            found.append(self.model(input_ids=ids, attention_mask=mask).logits[: len(ids) // 2, 0])
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def one_by_one(self, texts: Sequence[str]) -> np.ndarray:
        """`[n]` scores: each text alone, unpadded."""
        found = []
        for text in texts:
            ids = self.tokenizer(text, truncation=True, max_length=LONGEST, return_tensors="pt")["input_ids"]
            found.append(self.model(input_ids=ids).logits[0, 0])
        return torch.stack(found).numpy()


def difference(both: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """The original's reward: how much the question adds to the answer's score, neither below zero."""
    return np.maximum(both + SHIFT, 0) - np.maximum(alone + SHIFT, 0)
