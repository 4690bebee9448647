"""The original validator's rule, kept selectable: a linear layer trained on the difference of two softmaxes.

Each hotkey has a row of a linear layer over the prompt's embedding. A step's loss is the mean squared error between
the softmax of the successful miners' scores and the softmax of their rewards; SGD with momentum follows it. The
original never zeroed its gradients, so each step follows the sum of all gradients so far (``zeroed=False``);
``zeroed=True`` is what was meant. Failures teach nothing here, as in the original. Arithmetic is float32, as its
tensors were. Rows start like torch.nn.Linear's, uniform within 1/sqrt(d), drawn from the hotkey itself, so that a
replaced hotkey starts again and a refold gives the same bits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from services.gating.outlook import Outlook
from services.gating.pack import HeadFormat, pack, unpack
from services.gating.rows import RowIndex, grown
from services.gating.targets import successes


@dataclass(frozen=True)
class OriginalOptions:
    """SGD's learning rate and momentum, whether gradients are zeroed between steps, and how many hotkeys fit."""

    learning_rate: float = 0.01
    momentum: float = 0.9
    zeroed: bool = False
    capacity: int = 8192


class OriginalHead:
    """The original's rule keyed by hotkey. The API is services.gating.head.Head."""

    rule = "original"

    def __init__(self, dim: int, encoder: str = "", options: OriginalOptions | None = None) -> None:
        self.dim = dim
        self.encoder = encoder
        self.options = options or OriginalOptions()
        self.observations = 0
        self._index = RowIndex(self.options.capacity)
        # The last column is the bias.
        self._weights = np.zeros((0, dim + 1), dtype=np.float32)
        self._gradient = np.zeros((0, dim + 1), dtype=np.float32)
        self._velocity = np.zeros((0, dim + 1), dtype=np.float32)

    def observe(
        self,
        embedding: np.ndarray,
        hotkeys: np.ndarray,
        rewards: np.ndarray,
        ok: np.ndarray,
        latency_s: np.ndarray | None = None,
    ) -> None:
        """One training step on the successes of one prompt; see Head.observe."""
        del latency_s
        self.observations += 1
        rows, fresh = self._index.claim(hotkeys)
        if fresh.size:
            self._start(fresh, hotkeys[np.isin(rows, fresh)])
        success = successes(rewards, ok)
        if not success.any():
            return
        rows, told = rows[success], rewards[success]
        x = np.append(np.asarray(embedding, dtype=np.float32), np.float32(1.0))
        given = _softmax(self._weights[rows] @ x)
        wanted = _softmax(np.clip(told, -1e6, 1e6).astype(np.float32))
        slope = (given - wanted) * np.float32(2.0 / rows.size)
        slope = given * (slope - np.dot(given, slope))
        used = self._index.used
        gradient, velocity = self._gradient[:used], self._velocity[:used]
        if self.options.zeroed:
            gradient[:] = 0.0
        gradient[rows] += slope[:, None] * x
        velocity *= np.float32(self.options.momentum)
        velocity += gradient
        self._weights[:used] -= np.float32(self.options.learning_rate) * velocity

    def _start(self, rows: np.ndarray, hotkeys: np.ndarray) -> None:
        used = self._index.used
        self._weights = grown(self._weights, used)
        self._gradient = grown(self._gradient, used)
        self._velocity = grown(self._velocity, used)
        self._gradient[rows] = 0.0
        self._velocity[rows] = 0.0
        places = self._index.find(hotkeys)
        for row, key in zip(places.tolist(), hotkeys.tolist(), strict=True):
            self._weights[row] = self.initial(key)

    def initial(self, hotkey: int) -> np.ndarray:
        """The row, bias last, that a hotkey's digest starts with: float32 [d + 1]."""
        bound = 1.0 / np.sqrt(self.dim)
        return np.random.default_rng(hotkey).uniform(-bound, bound, self.dim + 1).astype(np.float32)

    def scores(self, embeddings: np.ndarray, hotkeys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The layer's outputs [b, n]; the rule knows no uncertainty, so the deviations are zero."""
        x = np.asarray(embeddings, dtype=np.float32)
        weights = self._layer(hotkeys)
        mean = (x @ weights[:, :-1].T + weights[:, -1]).astype(np.float64)
        return mean, np.zeros_like(mean)

    def outlook(self, hotkeys: np.ndarray) -> Outlook:
        """See Head.outlook."""
        weights = self._layer(hotkeys)
        nothing = np.zeros(weights.shape[0])
        return Outlook(_with_bias, weights, lambda _: nothing, least=0.0)

    def _layer(self, hotkeys: np.ndarray) -> np.ndarray:
        """Weights and bias of each hotkey, float32 [n, d + 1]."""
        rows = self._index.find(hotkeys)
        weights = np.empty((rows.size, self.dim + 1), dtype=np.float32)
        known = rows >= 0
        weights[known] = self._weights[rows[known]]
        for at in np.flatnonzero(~known).tolist():
            weights[at] = self.initial(int(hotkeys[at]))
        return weights

    def retire(self, hotkeys: np.ndarray) -> None:
        """Forget hotkeys that left the subnet."""
        freed = self._index.release(hotkeys)
        for array in (self._weights, self._gradient, self._velocity):
            array[freed] = 0.0

    def known(self, hotkeys: np.ndarray) -> np.ndarray:
        """Whether anything was learnt of each hotkey, bool [n]."""
        return self._index.find(hotkeys) >= 0

    @property
    def features(self) -> int:
        """How many numbers describe a prompt, the constant included."""
        return self.dim + 1

    @property
    def noise(self) -> float:
        """The rule has no idea of it."""
        return 0.0

    def __len__(self) -> int:
        return len(self._index)

    def to_bytes(self) -> bytes:
        """The whole state; from_bytes gives a head that goes on bit for bit as this one."""
        used = self._index.used
        meta = {
            "dim": self.dim,
            "encoder": self.encoder,
            "options": asdict(self.options),
            "observations": self.observations,
        }
        arrays = {
            "weights": self._weights[:used],
            "gradient": self._gradient[:used],
            "velocity": self._velocity[:used],
            **self._index.arrays(),
        }
        return pack(self.rule, meta, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> OriginalHead:
        """The head that ``to_bytes`` described. Raises HeadFormat when it is damaged or of another kind."""
        meta, arrays = unpack(data, cls.rule)
        try:
            head = cls(meta["dim"], meta["encoder"], OriginalOptions(**meta["options"]))
            head.observations = meta["observations"]
            head._index = RowIndex.from_arrays(arrays)
            head._weights = arrays["weights"]
            head._gradient, head._velocity = arrays["gradient"], arrays["velocity"]
        except (KeyError, TypeError) as error:
            raise HeadFormat(f"the gating state lacks something: {error}") from error
        if head._weights.shape != (head._index.used, head.dim + 1):
            raise HeadFormat("the arrays of the gating state do not fit together")
        return head


def _with_bias(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [b, d] with a one for the bias: float32 [b, d + 1]."""
    x = np.asarray(embeddings, dtype=np.float32)
    return np.hstack([x, np.ones((x.shape[0], 1), dtype=np.float32)])


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()
