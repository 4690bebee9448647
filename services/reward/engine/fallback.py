"""Any architecture: length-sorted batches through transformers' own forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from services.reward.engine.backend import Distinct
from services.reward.engine.budget import TokenBudget
from services.reward.engine.plan import Ids, batches_by_length
from services.reward.engine.turns import give_way, paced

Read = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]

# How far one way of computing a model may be from another before it is not used: (absolute, relative) by type.
# fp32 is far tighter in practice (1e-6); half types differ between any two kernels.
TOLERANCES = {torch.float32: (1e-4, 1e-4), torch.float16: (3e-2, 3e-2), torch.bfloat16: (1e-1, 1e-1)}


def alike(found: np.ndarray, wanted: np.ndarray, dtype: torch.dtype) -> bool:
    """Whether two arrays of one shape differ by no more than rounding in a type may make them; never with a NaN."""
    absolute, relative = TOLERANCES.get(dtype, TOLERANCES[torch.float32])
    return bool(np.abs(found - wanted).max() <= absolute + relative * np.abs(wanted).max())


class Fallback:
    """Scores token sequences with `read(model, ids, mask) -> [n, width]`, in batches of similar length.

    Sequences of different length are padded only if a probe at construction shows that this model's result
    does not depend on it; otherwise (state-space models, models without a padding token, positions counted
    from the left edge of the padding) only sequences of the same length share a batch.
    """

    def __init__(self, model: Any, read: Read, pad_id: int | None, device: str) -> None:
        self.model = model
        self.read = read
        self.device = device
        self.pad_id = 0 if pad_id is None else pad_id
        self.pads = pad_id is not None and self._padding_is_harmless()

    @torch.inference_mode()
    def rows(self, groups: Iterable[Sequence[Ids]], budget: TokenBudget) -> np.ndarray:
        """See `Backend`."""
        distinct = Distinct(groups)
        # All of them at once: what this sorts is as long as what it has.
        everything = [i for group in distinct.groups() for i in group]
        sequences = distinct.sequences
        found: dict[int, np.ndarray] = {}

        def work(tokens: int) -> None:
            left = [i for i in everything if i not in found]
            for batch in self._batches(left, sequences, paced(tokens)):
                give_way()
                for i, row in zip(batch, self._run([sequences[i] for i in batch]), strict=True):
                    found[i] = row

        budget.run(work)
        return distinct.spread(found)

    def _batches(self, left: list[int], sequences: Sequence[Ids], tokens: int) -> list[list[int]]:
        batches = [[left[i] for i in b] for b in batches_by_length([len(sequences[i]) for i in left], tokens)]
        if self.pads:
            return batches
        same: dict[tuple[int, int], list[int]] = {}
        for number, batch in enumerate(batches):
            for i in batch:
                same.setdefault((number, len(sequences[i])), []).append(i)
        return list(same.values())

    def _run(self, sequences: Sequence[Ids]) -> np.ndarray:
        width = max(map(len, sequences))
        ids = torch.full((len(sequences), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        return self.read(self.model, ids.to(self.device), mask.to(self.device)).float().cpu().numpy()

    @torch.inference_mode()
    def _padding_is_harmless(self) -> bool:
        tokens = [i for i in range(20) if i != self.pad_id]
        probes = [tokens[:9], tokens[3:8], tokens[11:12]]
        try:
            together = self._run(probes)
            alone = np.concatenate([self._run([p]) for p in probes])
        except (ValueError, IndexError, RuntimeError):
            return False
        return alike(together, alone, self.model.dtype)
