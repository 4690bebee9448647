"""What the gating leader folds: one observation of the history into a head, reliabilities and counters.

Pure: the event is decoded and its prompt encoded before. Folding the same observations gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.gating.head import Head, load_head, make_head
from services.gating.outlook import Outlook
from services.gating.pack import HeadFormat, pack, unpack
from services.gating.reliability import Reliability, Standing, with_availability
from services.gating.targets import FAILURE

_KIND = "gating-fold"
_HEAD = "head"


@dataclass(frozen=True)
class GatingObservation:
    """What gating learns from one event. Arrays are aligned: one entry a queried hotkey.

    ``embedding`` float32 [d] or None when the texts were left out; ``hotkeys`` uint64 digests [n] (0 for none);
    ``rewards`` float [n], NaN where there is none; ``ok`` bool [n]; ``latency_s`` float [n].
    """

    embedding: np.ndarray | None
    hotkeys: np.ndarray
    rewards: np.ndarray
    ok: np.ndarray
    latency_s: np.ndarray
    learn: bool = True
    """Whether the head is to learn from it; reliability is kept of every event."""


class FoldOutlook:
    """GatingFold.scores for certain hotkeys, made ready to be asked often. Holds while the fold stands still."""

    def __init__(self, head: Outlook, standing: Standing | None) -> None:
        """``standing`` is None where availability does not enter."""
        self._head = head
        self._standing = standing

    def describe(self, embedding: np.ndarray) -> np.ndarray:
        """An embedding [d] as features, which the other methods take."""
        return self._head.describe(embedding)

    def mean(self, x: np.ndarray, deadline_s: float | None) -> np.ndarray:
        """Expected reward within the deadline, float64 [n]."""
        mean = self._head.mean(x)
        if self._standing is None:
            return mean
        share = self._standing.availability(deadline_s)
        return share * (mean - FAILURE) + FAILURE

    def std(self, x: np.ndarray, deadline_s: float | None) -> np.ndarray:
        """The standard deviation of that expectation, float64 [n]."""
        std = self._head.std(x)
        return std if self._standing is None else self._standing.availability(deadline_s) * std


class GatingFold:
    """Head, reliability and counters of one generation (one rule on one encoder's embeddings)."""

    def __init__(
        self,
        rule: str,
        dim: int,
        encoder: str = "",
        *,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
    ) -> None:
        """Nothing learnt; the arguments are make_head's. Raises ValueError for an unknown rule."""
        self.rule = rule
        self.head: Head = make_head(rule, dim, encoder, learning_rate=learning_rate, momentum=momentum)
        self.reliability = Reliability()
        self.events = 0
        """Observations folded: the version that replicas announce."""
        self.learnt = 0
        self.skipped = 0

    def apply(self, observation: GatingObservation) -> None:
        """Fold one observation. One without a miner, an embedding or a finite embedding teaches the head nothing."""
        self.events += 1
        hotkeys, first = np.unique(observation.hotkeys, return_index=True)
        first = np.sort(first[hotkeys != 0])
        hotkeys = np.asarray(observation.hotkeys, dtype=np.uint64)[first]
        if not hotkeys.size:
            self.skipped += 1
            return
        ok = np.asarray(observation.ok, dtype=bool)[first]
        latency = np.asarray(observation.latency_s, dtype=np.float64)[first]
        rewards = np.asarray(observation.rewards, dtype=np.float64)[first]
        self.reliability.observe(hotkeys, ok, latency)
        embedding = observation.embedding
        usable = (
            embedding is not None and embedding.shape == (self.head.dim,) and np.isfinite(embedding).all()
        )
        if not (observation.learn and usable):
            self.skipped += 1
            return
        assert embedding is not None
        self.head.observe(np.asarray(embedding, dtype=np.float32), hotkeys, rewards, ok, latency)
        self.learnt += 1

    def retire(self, hotkeys: np.ndarray) -> None:
        """Forget hotkeys (uint64 [n]) that left the subnet: the metagraph event says which."""
        self.head.retire(hotkeys)
        self.reliability.retire(hotkeys)

    def scores(
        self, embeddings: np.ndarray, hotkeys: np.ndarray, deadline_s: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expected reward within the deadline and its standard deviation: float64 [b, n] each.

        The head's scores, lowered towards a failure's target where a miner has just gone down or is too slow for
        ``deadline_s``. The original's rule knows nothing of that, and its scores stay as they are.
        """
        mean, std = self.head.scores(embeddings, hotkeys)
        if self.head.rule == "original":
            return mean, std
        return with_availability(mean, std, self.reliability.availability(hotkeys, deadline_s), FAILURE)

    def outlook(self, hotkeys: np.ndarray) -> FoldOutlook:
        """What ``scores`` says of hotkeys uint64 [n], made ready to be asked often, as the fold is now."""
        original = self.head.rule == "original"
        return FoldOutlook(
            self.head.outlook(hotkeys), None if original else self.reliability.standing(hotkeys)
        )

    def to_bytes(self) -> bytes:
        """The whole state, deterministic."""
        head = np.frombuffer(self.head.to_bytes(), dtype=np.uint8)
        meta = {
            "events": self.events,
            "learnt": self.learnt,
            "skipped": self.skipped,
        }
        return pack(_KIND, meta, {_HEAD: head, **self.reliability.arrays()})

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        rule: str,
        dim: int,
        encoder: str = "",
        *,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
    ) -> GatingFold:
        """The fold in ``data``, whose head must be of the generation that the arguments name (see load_head).

        Raises HeadFormat when it is damaged, HeadMismatch when it is of another generation.
        """
        meta, arrays = unpack(data, _KIND)
        try:
            fold = cls(rule, dim, encoder, learning_rate=learning_rate, momentum=momentum)
            fold.head = load_head(arrays.pop(_HEAD).tobytes(), fold.head)
            fold.reliability = Reliability.from_arrays(arrays)
            fold.events, fold.learnt, fold.skipped = meta["events"], meta["learnt"], meta["skipped"]
        except KeyError as error:
            raise HeadFormat(f"the gating state lacks something: {error}") from error
        return fold
