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
from services.reward.engine.errors import ModelError
from services.reward.engine.load import identity_of, open_model, open_tokenizer, read_config, token_limit
from services.reward.engine.plan import Group, batches_by_length
from services.reward.engine.text import Tokens, well_formed
from services.reward.engine.turns import give_way, paced

# A row of logits is as long as the vocabulary: so many numbers at once, a quarter of a gigabyte.
LOGITS_AT_ONCE = 1 << 26
PADDING_TOLERANCE = 1e-4
HEAD_TOLERANCE = 1e-4

Item = tuple[tuple[int, ...], int]
"""Token ids, and the first of them that belongs to the completion."""


class LogProb:
    """Mean log-probabilities of completions, in length-sorted batches. One thread at a time.

    `whole_logits` says that the model does more to its logits than its head, so that all of them are computed
    by transformers; else only those of completions are. `pads` is false for a model that padding changes:
    then only sequences of the same length share a batch.
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
        self._model = model
        self._device = device
        self._logits_at_once = logits_at_once
        self._head = model.get_output_embeddings()
        self._extra = (
            {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
        )
        self.whole_logits = not self._head_is_all()
        self.pads = self._padding_is_harmless()

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
        items = [self._item(g.prompt, c) for g in groups for c in g.completions]
        distinct = list(dict.fromkeys(item for item in items if max(1, item[1]) < len(item[0])))
        found: dict[Item, float] = {}

        def work(tokens: int) -> None:
            left = [item for item in distinct if item not in found]
            for batch in self._batches(left, paced(tokens)):
                give_way()
                found.update(zip(batch, self._run(batch), strict=True))

        if distinct:
            self.budget.run(work)
        flat = np.array([found.get(item, np.nan) for item in items], dtype=np.float32)
        return np.split(flat, np.cumsum([len(g.completions) for g in groups])[:-1]) if groups else []

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
        step = max(1, self._logits_at_once // self._model.config.get_text_config().vocab_size)
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
        if self._model.dtype != torch.float32:
            return bool(np.isfinite(together).all())
        alone = np.array([self._run([probe])[0] for probe in probes])
        return bool(np.abs(together - alone).max() <= PADDING_TOLERANCE)


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
    path = Path(path)
    config = read_config(path)
    model = open_model(path, transformers.AutoModelForCausalLM, device=device, dtype=dtype)
    tokenizer = open_tokenizer(path)
    if not tokenizer.is_fast:
        raise ModelError(
            "tokenizer_missing",
            f"The tokenizer at {path} does not say where its tokens stand.",
            "Choose a model with a tokenizer.json.",
        )
    return LogProb(
        model=model,
        tokens=Tokens(tokenizer, token_limit(config, tokenizer, max_tokens)),
        identity=identity_of(path),
        device=device,
        budget=TokenBudget(token_budget, device),
        logits_at_once=logits_at_once,
    )
