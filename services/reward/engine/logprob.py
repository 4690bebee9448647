"""How likely a causal language model finds a completion after its prompt."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from services.reward.engine.budget import TokenBudget
from services.reward.engine.build import packed_body, probe_groups, unpackable
from services.reward.engine.decoder import KeyValue, PackedDecoder
from services.reward.engine.errors import ModelError
from services.reward.engine.fallback import alike
from services.reward.engine.load import identity_of, open_directory
from services.reward.engine.plan import Group, Ids, batches_by_length, chunks
from services.reward.engine.put import put
from services.reward.engine.text import Tokens, well_formed
from services.reward.engine.turns import give_way, paced

# A row of logits is as long as the vocabulary: so many numbers at once, a quarter of a gigabyte.
LOGITS_AT_ONCE = 1 << 26
HEAD_TOLERANCE = 1e-4

Item = tuple[tuple[int, ...], int]
"""Token ids, and the first of them that belongs to the completion."""


class LogProb:
    """Mean log-probabilities of completions. One thread at a time.

    Packed, with the prompt computed once for its completions, where the engine knows the architecture and gets
    its numbers; else in length-sorted batches, and `why_fallback` says why. `whole_logits` says that the model
    does more to its logits than its head, so that all of them are computed by transformers; else only those of
    completions are. `pads` is false for a model that padding changes: then only sequences of the same length
    share a batch.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokens: Tokens,
        identity: str,
        device: str,
        budget: TokenBudget,
        logits_at_once: int = LOGITS_AT_ONCE,
    ) -> None:
        self.tokens = tokens
        self.identity = identity
        self.budget = budget
        self._model: Any = model
        self._device = device
        self._head = model.get_output_embeddings()
        self._rows_at_once = max(1, logits_at_once // model.config.get_text_config().vocab_size)
        self._extra = (
            {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
        )
        self.whole_logits = not self._head_is_all()
        self.pads = self._padding_is_harmless()
        self._packed, self.why_fallback = self._proven()
        if self._packed is not None:
            # Its weights are in the packed form.
            del self._model

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.tokens.tokenizer

    @property
    def max_tokens(self) -> int:
        """The most tokens of prompt and completion that are read; the rest is cut off at the end."""
        return self.tokens.max_tokens

    @property
    def oom_halvings(self) -> int:
        """How often memory ran out and the token budget was halved."""
        return self.budget.oom_halvings

    def mean(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """For each group, `[K]` float32: the mean log-probability of the completion's tokens after the prompt.

        A token that holds characters of both is the completion's. NaN where a completion has no token that
        anything stands before.
        """
        families = [[self._item(g.prompt, c) for c in g.completions] for g in groups]
        items = [item for family in families for item in family]
        found: dict[Item, float] = {}

        def work(tokens: int) -> None:
            if self._packed is not None:
                self._run_packed(self._packed, families, found, tokens)
                return
            left = dict.fromkeys(item for item in items if _has_own(item) and item not in found)
            for batch in self._batches(list(left), paced(tokens)):
                give_way()
                found.update(zip(batch, self._run(batch), strict=True))

        if any(map(_has_own, items)):
            self.budget.run(work)
        flat = np.array([found.get(item, np.nan) for item in items], dtype=np.float32)
        return np.split(flat, np.cumsum([len(g.completions) for g in groups])[:-1]) if groups else []

    @torch.inference_mode()
    def _run_packed(
        self, packed: PackedDecoder, families: Sequence[Sequence[Item]], found: dict[Item, float], tokens: int
    ) -> None:
        """What `found` lacks. Each sequence goes without its last token, which nothing is asked about."""
        seen = set(found)
        items: list[Item] = []
        groups: list[list[tuple[int, Ids]]] = []
        for family in families:
            fresh = [item for item in dict.fromkeys(family) if _has_own(item) and item not in seen]
            seen.update(fresh)
            groups.append([(len(items) + i, item[0][:-1]) for i, item in enumerate(fresh)])
            items += fresh
        carried: list[KeyValue] | None = None
        # What is shared ends before the token that the first of the completion's own is read from.
        for chunk in chunks(
            [group for group in groups if group],
            lambda: paced(tokens),
            lambda number, ids: max(1, items[number][1]) - 1,
        ):
            rows: list[int] = []
            targets: list[int] = []
            counts: list[int] = []
            order = iter(chunk.which)
            for branch in chunk.branches:
                for segment in branch.segments:
                    ids, begin = items[next(order)]
                    own = ids[max(1, begin) :]
                    rows += range(segment.stop - len(own), segment.stop)
                    targets += own
                    counts.append(len(own))
            states, carried = packed.forward(chunk, carried, rows)
            likely = self._log_probabilities(states, put(targets, states.device))
            means = [part.mean() for part in likely.split(counts)]
            found.update(zip([items[n] for n in chunk.which], torch.stack(means).tolist(), strict=True))

    def _proven(self) -> tuple[PackedDecoder | None, str | None]:
        """The packed form if it gives what transformers gives for a few probes, else why not."""
        if self.whole_logits:
            return None, "its logits are more than its head's"
        probes = probe_groups(self._model.config.get_text_config().vocab_size, self.max_tokens)
        families = [[(tuple(ids), max(1, 2 * len(ids) // 3)) for ids in group] for group in probes]
        items = [item for family in families for item in family if _has_own(item)]
        found: dict[Item, float] = {}
        try:
            packed = packed_body(self._model.base_model, self.max_tokens)
            self._run_packed(packed, families, found, 1 << 20)
        except Exception as error:
            return None, unpackable(error)
        if not items:
            return packed, None
        ours = np.array([found[item] for item in items])
        wanted = np.array([self._run([item])[0] for item in items])
        worst = float(np.abs(ours - wanted).max())
        if not alike(ours, wanted, self._model.dtype):
            return None, f"the packed forward of this model differs from transformers' by {worst:.2g}"
        return packed, None

    def _item(self, prompt: str, completion: str) -> Item:
        # Each surrogate becomes one character, so that the place where the completion begins stays.
        text = well_formed(prompt + completion)[: self.tokens.max_chars]
        encoded = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        ids = encoded["input_ids"][: self.max_tokens]
        ends = [end for _, end in encoded["offset_mapping"][: self.max_tokens]]
        begin = next((i for i, end in enumerate(ends) if end > len(prompt)), len(ids))
        return tuple(ids), begin

    def _batches(self, items: list[Item], tokens: int) -> list[list[Item]]:
        batches = [[items[i] for i in b] for b in batches_by_length([len(ids) for ids, _ in items], tokens)]
        if self.pads:
            return batches
        same: dict[tuple[int, int], list[Item]] = {}
        for number, batch in enumerate(batches):
            for item in batch:
                same.setdefault((number, len(item[0])), []).append(item)
        return list(same.values())

    @torch.inference_mode()
    def _run(self, items: Sequence[Item]) -> list[float]:
        width = max(len(ids) for ids, _ in items)
        ids = torch.zeros((len(items), width), dtype=torch.long)
        mask = torch.zeros((len(items), width), dtype=torch.long)
        wanted = torch.zeros((len(items), width), dtype=torch.bool)
        for row, (sequence, begin) in enumerate(items):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
            # What stands at i says how likely the token at i + 1 is.
            wanted[row, max(1, begin) - 1 : len(sequence) - 1] = True
        rows, columns = (where.to(self._device) for where in wanted.nonzero(as_tuple=True))
        ids, mask = ids.to(self._device), mask.to(self._device)
        body = self._model if self.whole_logits else self._model.base_model
        given = body(input_ids=ids, attention_mask=mask, **self._extra)
        states = (given.logits if self.whole_logits else given.last_hidden_state)[rows, columns]
        likely = self._log_probabilities(states, ids[rows, columns + 1])
        sums = likely.new_zeros(len(items)).index_add_(0, rows, likely)
        return (sums / wanted.sum(1).to(self._device)).cpu().tolist()

    def _log_probabilities(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`[m]` float64 of the target tokens `[m]` after states (or logits) `[m, width]`."""
        step = self._rows_at_once
        parts: list[torch.Tensor] = []
        for at in range(0, len(states), step):
            rows = states[at : at + step]
            logits = (rows if self.whole_logits else self._head(rows)).float()
            chosen = logits.gather(1, targets[at : at + step, None])[:, 0]
            parts.append((chosen - logits.logsumexp(1)).double())
        return torch.cat(parts)

    @torch.inference_mode()
    def _head_is_all(self) -> bool:
        """Whether the logits are the head's product of the body's states, without a scale or a cap behind it."""
        if self._head is None or self._model.base_model is self._model:
            return False
        ids = torch.arange(min(8, self.max_tokens), device=self._device)[None]
        states = self._model.base_model(input_ids=ids, **self._extra).last_hidden_state
        logits = self._model(input_ids=ids, **self._extra).logits
        made = self._head(states)
        return made.shape == logits.shape and bool((made - logits).abs().max() <= HEAD_TOLERANCE)

    def _padding_is_harmless(self) -> bool:
        probes: list[Item] = [((3, 1, 4, 1, 5, 9, 2, 6), 2), ((2, 7, 1, 8), 1), ((1, 6), 1)]
        together = np.array(self._run(probes))
        alone = np.array([self._run([probe])[0] for probe in probes])
        return alike(together, alone, self._model.dtype)


def _has_own(item: Item) -> bool:
    """Whether the completion has a token that anything stands before."""
    return max(1, item[1]) < len(item[0])


def load_logprob(
    path: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    max_tokens: int | None = None,
    token_budget: int = 2048,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> LogProb:
    """The AutoModelForCausalLM at `path`. Raises `ModelError` for a missing or incompatible one."""
    auto = transformers.AutoModelForCausalLM
    opened = open_directory(path, auto, device=device, dtype=dtype, max_tokens=max_tokens)
    if not opened.tokenizer.is_fast:
        raise ModelError(
            "tokenizer_missing",
            f"The tokenizer at {path} does not say where its tokens stand.",
            "Choose a model with a tokenizer.json.",
        )
    return LogProb(
        model=opened.model,
        tokens=Tokens(opened.tokenizer, opened.limit),
        identity=identity_of(opened.path),
        device=device,
        budget=TokenBudget(token_budget, device),
        logits_at_once=logits_at_once,
    )
