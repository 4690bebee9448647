"""The engine's one error."""

from __future__ import annotations


class ModelError(Exception):
    """A model is missing, does not fit the engine, or cannot run here.

    `code` is stable and for machines, `sentence` says what is wrong, `remedy` what to do about it. The engine
    knows nothing of coremesh, so whoever serves it maps these three on to the service's own error tree.
    """

    def __init__(self, code: str, sentence: str, remedy: str) -> None:
        super().__init__(f"{sentence} {remedy}")
        self.code = code
        self.sentence = sentence
        self.remedy = remedy
