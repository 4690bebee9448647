"""What miners did on single prompts, beyond what their features of few directions explain: the rest, remembered.

A subnet whose prompts come again, or whose miners differ in finer things than the kept components tell, leaves
residuals that a prompt's whole embedding explains. Every hotkey has a ridge regression of them; all share one inverse
design, as if each had been asked in the same share of the steps (as in rls.py). How far it is to be believed is
learnt too: each prediction is compared with what then came, before it may be learnt from; apart for prompts that came
before and for those that come for the first time, on which a memory is worth much less. Where residuals are mere noise
the trust goes to nothing, and so does the memory's part.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch

from services.gating.rows import grown

_RIDGE = 0.1
"""In observations of a unit-norm embedding: one answer to a prompt is believed to nine tenths."""
_RATE = 0.02
_LEAST_SQUARE = 1e-3
_PROMPTS = 8192
_LARGEST = 12
_PENDING = 16
"""Changes of the design that are applied at once: each alone is a pass over all of its inverse."""
LEAST_TRUST = 0.02
"""Below it the memory is not worth its product."""


class Memory:
    """Ridge regressions of residuals on unit-norm embeddings, one a row, and the trust in them."""

    def __init__(self, dim: int) -> None:
        self.inverse = np.eye(dim) / _RIDGE
        """Of the design [d, d], but for the changes in ``pending``."""
        self.pending = np.zeros((_PENDING, dim))
        """The first ``changes`` rows r: r r' is still to be subtracted from ``inverse``."""
        self.changes = 0
        self.weights = np.zeros((0, dim), dtype=np.float32)
        self.agreement = np.zeros((2, 3))
        """Means of residual * prediction and of prediction squared, and how many steps they are of: of new prompts,
        and of those that came before."""
        self._prompts: dict[int, None] = {}
        self.weight = 0.0
        """Observations a hotkey, since the design was last let forget."""

    @property
    def slopes(self) -> np.ndarray:
        """What predictions are worth, in 0 to 1, for new prompts and for others: slopes of residuals on them."""
        return np.clip(self.agreement[:, 0] / (self.agreement[:, 1] + _LEAST_SQUARE), 0.0, 1.0)

    def trust(self, z: np.ndarray) -> np.ndarray:
        """What predictions for unit embeddings [b, d] are worth, in 0 to 1: float64 [b]."""
        return self.slopes[[int(_key(one) in self._prompts) for one in z]]

    def learn(self, z: np.ndarray, rows: np.ndarray, residual: np.ndarray, share: float) -> None:
        """From a prompt's unit embedding z [d], the residuals [n] of distinct ``rows`` [n], a ``share`` of all."""
        old = self.weights[rows]
        predicted = (old @ z.astype(np.float32)).astype(np.float64)
        key = _key(z)
        agreement = self.agreement[int(key in self._prompts)]
        together, alone, steps = agreement.tolist()
        rate = max(_RATE, 1.0 / (steps + 1.0))
        together += rate * (float(residual @ predicted) / rows.size - together)
        alone += rate * (float(predicted @ predicted) / rows.size - alone)
        agreement[:] = together, alone, steps + 1.0
        self._prompts.pop(key, None)
        self._prompts[key] = None  # the last
        if len(self._prompts) > _PROMPTS:
            del self._prompts[next(iter(self._prompts))]
        spread = self._spread(z)
        along = float(spread @ z)
        self._change(spread * float(np.sqrt(share / (1.0 + share * along))))
        gain = (spread / (1.0 + along)).astype(np.float32)
        old += (residual - predicted).astype(np.float32)[:, None] * gain
        self.weights[rows] = old
        self.weight += share

    def _spread(self, z: np.ndarray) -> np.ndarray:
        """The inverse design times z [d]."""
        pending = self.pending[: self.changes]
        return self.inverse @ z - (pending @ z) @ pending

    def _change(self, root: np.ndarray) -> None:
        """Subtract root root' [d, d] from the inverse design."""
        self.pending[self.changes] = root
        self.changes += 1
        if self.changes == _PENDING:
            self._settle()

    def _settle(self) -> None:
        pending = self.pending[: self.changes]
        self.inverse -= pending.T @ pending
        self.changes = 0

    def relearn(self, z: np.ndarray, counts: np.ndarray, residuals: np.ndarray) -> None:
        """Everything anew: unit embeddings [m, d] of prompts, each row's count and sum of residuals on each [n, m]."""
        share = counts.sum(axis=0) / max(int((counts.sum(axis=1) > 0).sum()), 1)
        design = (z * share[:, None]).T @ z
        self.inverse = _inverse(design + _RIDGE * np.eye(z.shape[1]))
        self.changes = 0
        self.weights = (residuals @ z @ self.inverse).astype(np.float32)

    def forget(self, horizon: float) -> None:
        """Let the design lose weight, by e for ``horizon`` observations a hotkey, so that rows can be overwritten."""
        ridge = _RIDGE * np.eye(self.inverse.shape[0])
        kept = float(np.exp(-self.weight / horizon))
        self._settle()
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
            "memory_pending": self.pending[: self.changes],
            "memory_weights": self.weights[:rows],
            "memory_agreement": np.r_[self.agreement.ravel(), self.weight],
            "memory_prompts": np.array(list(self._prompts), dtype=np.uint64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Memory:
        """What ``arrays()`` described."""
        made = cls(arrays["memory_inverse"].shape[0])
        made.inverse, made.weights = arrays["memory_inverse"], arrays["memory_weights"]
        if "memory_pending" in arrays:  # states had none once
            pending = arrays["memory_pending"]
            made.changes = len(pending)
            made.pending[: made.changes] = pending
        *agreement, made.weight = arrays["memory_agreement"].tolist()
        made.agreement = np.array(agreement).reshape(2, 3)
        made._prompts = dict.fromkeys(arrays["memory_prompts"].tolist())
        return made


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [b, d] at length 1, float64; zeros stay."""
    x = np.asarray(embeddings, dtype=np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1.0)


def _key(z: np.ndarray) -> int:
    """Equal for embeddings of one text, though their last bits depend on what was encoded beside it: which entries
    are the largest."""
    count = min(_LARGEST, z.size // 2)
    largest = np.argpartition(-np.abs(z), count)[:count] if count else np.zeros(0, np.int64)
    return int.from_bytes(blake2b(np.sort(largest).astype("<i8").tobytes(), digest_size=8).digest(), "little")


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric positive definite matrix, symmetric to the bit."""
    factor = torch.linalg.cholesky(torch.from_numpy((matrix + matrix.T) / 2))
    inverse = torch.cholesky_inverse(factor).numpy()
    return np.ascontiguousarray((inverse + inverse.T) / 2)
