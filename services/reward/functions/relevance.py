"""Relevance: how close a completion is to what was asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.reward.batch import Batch, Embeds, Floats
from services.reward.engine.turns import give_way
from services.reward.words import without_echo, words
from services.reward.work import CHARS_PER_TOKEN, TextOp


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
        self._op = _Rests(encoder)

    def key(self, batch: Batch) -> str:
        """Always the same scale."""
        return self._name

    async def raw(self, batch: Batch) -> Floats:
        """See Function."""
        rests = await batch.runner.run(self._op, [(batch.prompt, text) for text in batch.completions])
        echoing = [i for i, rest in enumerate(rests) if rest is not None]
        others = [rest for rest in rests if rest is not None]
        prompt, completions, alone = await batch.embedded_with(self._encoder, others)
        values = (completions @ prompt).astype(np.float64)
        if echoing:
            values[echoing] = np.minimum(values[echoing], np.stack(alone) @ prompt + self._margin)
        return values


class _Rests:
    """(prompt, completion) to what the completion says besides the prompt's own words; None where that is all."""

    name = "echo"

    def __init__(self, encoder: Embeds) -> None:
        self._encoder = encoder

    def cost(self, item: tuple[str, str]) -> int:
        """By the number of characters."""
        return 1 + (len(item[0]) + len(item[1])) // (CHARS_PER_TOKEN * TextOp.PER_TOKEN)

    def run(self, items: Sequence[tuple[str, str]]) -> list[str | None]:
        """Each text is read once, however often it comes."""
        texts = list(dict.fromkeys(text for item in items for text in item))
        said: dict[str, list[str]] = {}
        for text, read in zip(texts, self._encoder.read(texts), strict=True):
            give_way()
            said[text] = words(read)
        return [without_echo(said[prompt], said[completion]) for prompt, completion in items]
