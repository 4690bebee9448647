"""What a stack remembers of completions: phrases that everybody says, and what was said to other prompts.

It learns from signatures: a few whole numbers below 2**24 a completion, which a float32 column of an event holds
exactly. They say enough to judge by and nothing of the text itself, at 4 bytes a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Signs = NDArray[np.int64]
"""Signatures [n, columns]; -1 where there is nothing to say."""

NOTHING = -1
LIMIT = 1 << 24
"""Numbers below it survive a float32."""

MOST_PHRASES = 4096
FEW_COMPLETIONS = 5
"""An event of fewer counts as one of so many, so that one completion alone makes no phrase common."""
KEEP = 1.0 - 1.0 / 2000
"""What an event's weight keeps with every later one: about the last 2,000 decide."""
_RESCALE = 1e9


class CommonPhrases(msgspec.Struct, array_like=True):
    """How common phrases are: the decayed mean over events of the share of completions that say them.

    ``weight`` is that of the next event, which grows instead of all counts shrinking. At most MOST_PHRASES are
    kept: whenever there are more, the rarer half is forgotten.
    """

    weight: float = 1.0
    total: float = 0.0
    counts: dict[int, float] = {}

    def copy(self) -> CommonPhrases:
        """One that can be changed apart."""
        return CommonPhrases(self.weight, self.total, dict(self.counts))

    def add(self, signs: Signs) -> None:
        """Fold one event's signatures [n, slots]."""
        if not len(signs):
            return
        each = self.weight / max(len(signs), FEW_COMPLETIONS)
        for row in signs.tolist():
            for code in set(row) - {NOTHING}:
                self.counts[code] = self.counts.get(code, 0.0) + each
        self.total += self.weight
        self.weight /= KEEP
        if len(self.counts) > MOST_PHRASES:
            kept = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[: MOST_PHRASES // 2]
            self.counts = dict(kept)
        if self.weight > _RESCALE:
            self.counts = {code: count / self.weight for code, count in self.counts.items()}
            self.total /= self.weight
            self.weight = 1.0

    @property
    def events(self) -> float:
        """How many events speak, the older ones for less."""
        return self.total / self.weight

    def share(self, code: int) -> float:
        """In [0, 1]: which part of the completions says a phrase."""
        return self.counts.get(code, 0.0) / self.total if self.total else 0.0


class Recent(msgspec.Struct, array_like=True):
    """The newest signatures, oldest first: packed little-endian uint32 [m, columns]."""

    columns: int = 0
    packed: bytes = b""

    @property
    def signs(self) -> NDArray[np.uint32]:
        """uint32 [m, columns]."""
        return np.frombuffer(self.packed, dtype="<u4").reshape(-1, self.columns or 1)

    def added(self, signs: Signs, most: int) -> Recent:
        """With the signatures [n, columns] behind it, the oldest beyond ``most`` forgotten."""
        whole = signs[(signs >= 0).all(axis=1)]
        packed = self.packed + np.ascontiguousarray(whole, dtype="<u4").tobytes()
        return Recent(signs.shape[1], packed[-most * 4 * signs.shape[1] :] if most else b"")


def columns_of(name: str, signs: Signs) -> dict[str, tuple[float, ...]]:
    """Signatures as columns for an event, by ``sign:<mask>:<number>``."""
    return {_key(name, i): tuple(map(float, signs[:, i].tolist())) for i in range(signs.shape[1])}


def signs_of(name: str, columns: int, parts: dict[str, Any], prefix: str = "") -> Signs | None:
    """An event's signatures [n, columns] without the uids that have none; None where they were not recorded."""
    found = [parts.get(prefix + _key(name, i)) for i in range(columns)]
    if any(column is None for column in found):
        return None
    rows = np.stack([np.asarray(column, dtype=np.float64) for column in found], axis=1)
    rows = rows[np.isfinite(rows).all(axis=1)].astype(np.int64)
    return rows[((rows >= NOTHING) & (rows < LIMIT)).all(axis=1)]


def filled(codes: Sequence[int], slots: int) -> list[int]:
    """The codes with NOTHING behind them, ``slots`` long."""
    return [*codes[:slots], *[NOTHING] * (slots - len(codes))]


def _key(name: str, i: int) -> str:
    return f"sign:{name}:{i}"
