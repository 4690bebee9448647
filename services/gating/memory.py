"""What miners did on single prompts, beyond what their features of few directions explain: the rest, remembered.

A subnet whose prompts come again, or whose miners differ in finer things than the kept components tell, leaves
residuals that a prompt's whole embedding explains. Every hotkey has a ridge regression of them; all share one inverse
design, as if each had been asked in the same share of the steps (as in rls.py). How far it is to be believed is
learnt too: each prediction is compared with what then came, before it may be learnt from. Where residuals are mere
noise the trust goes to nothing, and so does the memory's part.
"""

from __future__ import annotations

import numpy as np
import torch

from services.gating.rows import grown

_RIDGE = 0.1
"""In observations of a unit-norm embedding: one answer to a prompt is believed to nine tenths."""
_RATE = 0.02
_LEAST_SQUARE = 1e-3
LEAST_TRUST = 0.02
"""Below it the memory is not worth its product."""


class Memory:
    """Ridge regressions of residuals on unit-norm embeddings, one a row, and the trust in them."""

    def __init__(self, dim: int) -> None:
        self.inverse = np.eye(dim) / _RIDGE
        self.weights = np.zeros((0, dim), dtype=np.float32)
        self.agreement = np.zeros(3)
        """Means of residual * prediction and of prediction squared, and how many steps they are of."""
        self.weight = 0.0
        """Observations a hotkey, since the design was last let forget."""

    @property
    def trust(self) -> float:
        """What predictions are worth, in 0 to 1: the slope of residuals on predictions."""
        return float(np.clip(self.agreement[0] / (self.agreement[1] + _LEAST_SQUARE), 0.0, 1.0))

    def learn(self, z: np.ndarray, rows: np.ndarray, residual: np.ndarray, share: float) -> None:
        """From a prompt's unit embedding z [d], the residuals [n] of distinct ``rows`` [n], a ``share`` of all."""
        predicted = self.weights[rows] @ z.astype(np.float32)
        self.agreement[2] += 1.0
        rate = max(_RATE, 1.0 / self.agreement[2])
        now = np.array([float(residual @ predicted), float(predicted @ predicted)]) / rows.size
        self.agreement[:2] += rate * (now - self.agreement[:2])
        spread = self.inverse @ z
        along = float(spread @ z)
        s = torch.from_numpy(spread)
        torch.from_numpy(self.inverse).addr_(s, s, alpha=-share / (1.0 + share * along))  # in place, one pass
        gain = (spread / (1.0 + along)).astype(np.float32)
        self.weights[rows] += (residual - predicted).astype(np.float32)[:, None] * gain
        self.weight += share

    def relearn(self, z: np.ndarray, counts: np.ndarray, residuals: np.ndarray) -> None:
        """Everything anew: unit embeddings [m, d] of prompts, each row's count and sum of residuals on each [n, m]."""
        share = counts.sum(axis=0) / max(int((counts.sum(axis=1) > 0).sum()), 1)
        design = (z * share[:, None]).T @ z
        self.inverse = _inverse(design + _RIDGE * np.eye(z.shape[1]))
        self.weights = (residuals @ z @ self.inverse).astype(np.float32)

    def forget(self, horizon: float) -> None:
        """Let the design lose weight, by e for ``horizon`` observations a hotkey, so that rows can be overwritten."""
        ridge = _RIDGE * np.eye(self.inverse.shape[0])
        kept = float(np.exp(-self.weight / horizon))
        self.inverse = _inverse(ridge + kept * (_inverse(self.inverse) - ridge))
        self.weight = 0.0

    def grow(self, rows: int) -> None:
        """Room for so many rows."""
        self.weights = grown(self.weights, rows)

    def clear(self, rows: np.ndarray) -> None:
        """Forget what ``rows`` did."""
        self.weights[rows] = 0.0

    def arrays(self, rows: int) -> dict[str, np.ndarray]:
        """The state of the first ``rows`` rows as arrays, for a checkpoint."""
        return {
            "memory_inverse": self.inverse,
            "memory_weights": self.weights[:rows],
            "memory_agreement": np.r_[self.agreement, self.weight],
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Memory:
        """What ``arrays()`` described."""
        made = cls(arrays["memory_inverse"].shape[0])
        made.inverse, made.weights = arrays["memory_inverse"], arrays["memory_weights"]
        made.agreement, made.weight = arrays["memory_agreement"][:3], float(arrays["memory_agreement"][3])
        return made


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [b, d] at length 1, float64; zeros stay."""
    x = np.asarray(embeddings, dtype=np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1.0)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric positive definite matrix, symmetric to the bit."""
    factor = torch.linalg.cholesky(torch.from_numpy((matrix + matrix.T) / 2))
    inverse = torch.cholesky_inverse(factor).numpy()
    return np.ascontiguousarray((inverse + inverse.T) / 2)
