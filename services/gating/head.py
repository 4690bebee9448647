"""A head learns, from what miners were rewarded for, how well each would answer a prompt.

Three rules share one interface and are selectable by name: ``bayes`` (the default), ``original`` (faithful, and with
gradients zeroed) and ``rls``. Heads are pure: no clock, no randomness that the caller did not seed, no I/O. Folding
the same observations gives the same bytes, on the same machine, wherever a checkpoint was taken in between.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from services.gating.bayes import BayesHead, BayesOptions
from services.gating.original import OriginalHead, OriginalOptions
from services.gating.outlook import Outlook
from services.gating.pack import HeadFormat, unpack_any
from services.gating.rls import RlsHead, RlsOptions

RULES = ("bayes", "original", "original_zeroed", "rls")
"""Names for make_head."""


class HeadMismatch(ValueError):
    """A head of another rule, embedding size, encoder or options: it must be learnt anew, not loaded."""


class Head(Protocol):
    """What every rule offers. ``hotkeys`` are uint64 digests: state belongs to hotkeys, never to uids."""

    rule: str
    dim: int
    encoder: str
    """Identity of the encoder whose embeddings it was taught (services.gating.encoder)."""
    observations: int
    """How many were folded: the head's version."""

    def observe(
        self,
        embedding: np.ndarray,
        hotkeys: np.ndarray,
        rewards: np.ndarray,
        ok: np.ndarray,
        latency_s: np.ndarray | None = None,
    ) -> None:
        """Learn from one prompt: embedding [d], distinct hotkeys uint64 [n], rewards [n] (NaN without), ok bool [n].

        A hotkey that failed, or whose reward is not finite, is a failure, unless nobody succeeded.
        """
        ...

    def scores(self, embeddings: np.ndarray, hotkeys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expectation and standard deviation for embeddings [b, d], hotkeys [n]: float64 [b, n] each.

        For ``bayes`` and ``rls`` the unit is one standard deviation of a step's rewards, 0 the average miner.
        """
        ...

    def outlook(self, hotkeys: np.ndarray) -> Outlook:
        """What ``scores`` says of hotkeys uint64 [n], made ready to be asked often, of a head that learns no more."""
        ...

    @property
    def options(self) -> object:
        """How it learns; heads of unlike options are not interchangeable."""
        ...

    @property
    def features(self) -> int:
        """How many numbers describe a prompt to it now."""
        ...

    @property
    def noise(self) -> float:
        """Standard deviation of a single reward around its expectation, in the unit of the scores."""
        ...

    def retire(self, hotkeys: np.ndarray) -> None:
        """Forget hotkeys that left the subnet, uint64 [n]."""
        ...

    def known(self, hotkeys: np.ndarray) -> np.ndarray:
        """Whether anything was learnt of each hotkey, bool [n]."""
        ...

    def __len__(self) -> int:
        """How many hotkeys it remembers."""
        ...

    def to_bytes(self) -> bytes:
        """The whole state, deterministic."""
        ...


def make_head(
    rule: str, dim: int, encoder: str = "", *, learning_rate: float = 0.01, momentum: float = 0.9
) -> Head:
    """A head that has learnt nothing. Raises ValueError for an unknown rule.

    ``learning_rate`` and ``momentum`` are those of the original rule; the others have none.
    """
    if rule == "bayes":
        return BayesHead(dim, encoder, BayesOptions())
    if rule == "original":
        return OriginalHead(dim, encoder, OriginalOptions(learning_rate, momentum))
    if rule == "original_zeroed":
        return OriginalHead(dim, encoder, OriginalOptions(learning_rate, momentum, zeroed=True))
    if rule == "rls":
        return RlsHead(dim, encoder, RlsOptions())
    raise ValueError(f"there is no gating rule {rule!r}; there are {', '.join(RULES)}")


def restore_head(data: bytes) -> Head:
    """The head in ``data``, whatever its rule. Raises HeadFormat when it is damaged or none."""
    kind = unpack_any(data)[0]
    for head in (BayesHead, OriginalHead, RlsHead):
        if kind == head.rule:
            return head.from_bytes(data)
    raise HeadFormat(f"the state is of the unknown kind {kind!r}")


def load_head(data: bytes, wanted: Head) -> Head:
    """The head in ``data`` if it is one of ``wanted``'s generation: same rule, options, embeddings and encoder.

    Raises HeadFormat when it is damaged, HeadMismatch when it does not fit: a head learnt on another encoder's
    embeddings, or on embeddings of another size, is never reused.
    """
    head = restore_head(data)
    for what in ("rule", "dim", "encoder", "options"):
        found, want = getattr(head, what), getattr(wanted, what)
        if found != want:
            raise HeadMismatch(f"the stored gating head has {what} {found!r}; this service uses {want!r}")
    return head
