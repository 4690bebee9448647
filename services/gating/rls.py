"""Recursive least squares with one design shared by all hotkeys: the simple rule that learns well.

Every hotkey is a ridge regression of its targets on the unit-norm embedding and a constant. All share one inverse
design matrix, as if each had been asked in the same share of the steps, so a step costs one rank-one update and one
vector a hotkey. There is no basis to collect, and no notion of how much is known of whom beyond the shared one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from services.gating.outlook import Outlook
from services.gating.pack import HeadFormat, pack, unpack
from services.gating.rows import RowIndex, grown
from services.gating.targets import Targets, successes


@dataclass(frozen=True)
class RlsOptions:
    """The ridge on weights and bias (in observations), and how many hotkeys fit."""

    ridge: float = 1.0
    capacity: int = 8192


class RlsHead:
    """Recursive least squares keyed by hotkey. The API is services.gating.head.Head."""

    rule = "rls"

    def __init__(self, dim: int, encoder: str = "", options: RlsOptions | None = None) -> None:
        self.dim = dim
        self.encoder = encoder
        self.options = options or RlsOptions()
        self.observations = 0
        self._index = RowIndex(self.options.capacity)
        self._targets = Targets()
        self._inverse = np.eye(dim + 1) / self.options.ridge
        self._weights = np.zeros((0, dim + 1))

    def _features(self, embeddings: np.ndarray) -> np.ndarray:
        x = np.asarray(embeddings, dtype=np.float64)
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return np.hstack([x / np.where(norm > 0, norm, 1.0), np.ones((x.shape[0], 1))])

    def observe(
        self,
        embedding: np.ndarray,
        hotkeys: np.ndarray,
        rewards: np.ndarray,
        ok: np.ndarray,
        latency_s: np.ndarray | None = None,
    ) -> None:
        """Learn from one prompt's embedding [d], and hotkeys, rewards, ok [n]; see Head.observe."""
        del latency_s
        self.observations += 1
        target = self._targets(rewards, successes(rewards, ok), 0.0)
        if target is None:
            return
        told = np.isfinite(target)
        if not told.any():
            return
        rows, fresh = self._index.claim(hotkeys[told])
        self._weights = grown(self._weights, self._index.used)
        self._weights[fresh] = 0.0
        x = self._features(embedding[None])[0]
        share = told.sum() / len(self._index)
        spread = self._inverse @ x
        self._inverse -= np.outer(spread, spread * (share / (1.0 + share * float(spread @ x))))
        gain = spread / (1.0 + float(spread @ x))
        self._weights[rows] += (target[told] - self._weights[rows] @ x)[:, None] * gain

    def scores(self, embeddings: np.ndarray, hotkeys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected target and a deviation that all known hotkeys share: two float64 [b, n]."""
        x = self._features(embeddings)
        rows = self._index.find(hotkeys)
        known = rows >= 0
        mean = np.zeros((x.shape[0], rows.size))
        mean[:, known] = x @ self._weights[rows[known]].T
        shared = np.sqrt(np.clip(np.einsum("bi,ij,bj->b", x, self._inverse, x), 1e-9, 1.0))
        return mean, np.where(known[None], shared[:, None], 1.0)

    def outlook(self, hotkeys: np.ndarray) -> Outlook:
        """See Head.outlook."""
        rows = self._index.find(hotkeys)
        known = rows >= 0
        weights = np.zeros((rows.size, self._weights.shape[1]))
        weights[known] = self._weights[rows[known]]
        inverse = self._inverse.copy()
        return Outlook(
            self._features, weights, lambda x: np.where(known, np.clip(x @ inverse @ x, 1e-9, 1.0), 1.0)
        )

    def retire(self, hotkeys: np.ndarray) -> None:
        """Forget hotkeys that left the subnet."""
        self._weights[self._index.release(hotkeys)] = 0.0

    def known(self, hotkeys: np.ndarray) -> np.ndarray:
        """Whether anything was learnt of each hotkey, bool [n]."""
        return self._index.find(hotkeys) >= 0

    @property
    def features(self) -> int:
        """How many numbers describe a prompt, the constant included."""
        return self.dim + 1

    @property
    def noise(self) -> float:
        """The unit of the design: one standard deviation of a step's rewards."""
        return 1.0

    def __len__(self) -> int:
        return len(self._index)

    def to_bytes(self) -> bytes:
        """The whole state; from_bytes gives a head that goes on bit for bit as this one."""
        meta = {
            "dim": self.dim,
            "encoder": self.encoder,
            "options": asdict(self.options),
            "observations": self.observations,
            "targets": [self._targets.variance, self._targets.steps],
        }
        arrays = {
            "weights": self._weights[: self._index.used],
            "inverse": self._inverse,
            **self._index.arrays(),
        }
        return pack(self.rule, meta, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> RlsHead:
        """The head that ``to_bytes`` described. Raises HeadFormat when it is damaged or of another kind."""
        meta, arrays = unpack(data, cls.rule)
        try:
            head = cls(meta["dim"], meta["encoder"], RlsOptions(**meta["options"]))
            head.observations = meta["observations"]
            head._targets = Targets(meta["targets"][0], meta["targets"][1])
            head._index = RowIndex.from_arrays(arrays)
            head._weights, head._inverse = arrays["weights"], arrays["inverse"]
        except (KeyError, TypeError, IndexError) as error:
            raise HeadFormat(f"the gating state lacks something: {error}") from error
        if head._weights.shape != (head._index.used, head.dim + 1):
            raise HeadFormat("the arrays of the gating state do not fit together")
        return head
