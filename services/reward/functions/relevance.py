"""Relevance: how close a completion is to what was asked."""

from __future__ import annotations

import numpy as np

from services.reward.batch import Batch, Embeds, Floats
from services.reward.words import without_echo
from services.reward.work import TextOp


class Relevance:
    """The cosine of prompt and completion embeddings, in [-1, 1].

    Repetitions are looked for in what the encoder reads: special tokens, which it never does, would cut them up.
    Nothing is closer to a prompt than the prompt itself, with whatever filler between its words. A completion that
    repeats some of it in the same words therefore gets at most ``echo_margin`` more than the rest of it would alone:
    enough for an answer that names what was asked about, too little for one that says nothing else.
    """

    def __init__(self, name: str, encoder: Embeds, *, echo_margin: float = 0.2) -> None:
        self._name = name
        self._encoder = encoder
        self._margin = echo_margin
        self._op = TextOp("echo", lambda item: without_echo(*map(encoder.read, item)), _chars)

    def key(self, batch: Batch) -> str:
        """Always the same scale."""
        return self._name

    async def raw(self, batch: Batch) -> Floats:
        """See Function."""
        prompt, completions = await batch.embedded(self._encoder)
        values = (completions @ prompt).astype(np.float64)
        rests = await batch.runner.run(self._op, [(batch.prompt, c) for c in batch.completions])
        echoing = [i for i, rest in enumerate(rests) if rest is not None]
        if echoing:
            texts = [rests[i] or "" for i in echoing]
            alone = np.stack(await batch.runner.run(self._encoder.op, texts)) @ prompt
            values[echoing] = np.minimum(values[echoing], alone + self._margin)
        return values


def _chars(item: tuple[str, str]) -> int:
    return len(item[0]) + len(item[1])
