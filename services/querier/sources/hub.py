"""Texts from a data set of the Hugging Face hub, streamed."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator

from services.querier.sources.folder import text_of

SHUFFLED = 1000


def has_datasets() -> bool:
    """Whether the optional library is installed."""
    return importlib.util.find_spec("datasets") is not None


def read_hub(name: str, config: str, split: str, field: str, *, seed: int | None = None) -> Iterator[str]:
    """One pass over a data set, or over a local folder that the library understands.

    Nothing is stored and no code of the data set is run. Raises what the library raises: no network, no such
    data set, no such column.
    """
    from datasets import load_dataset  # pyright: ignore[reportMissingImports] - optional

    rows = load_dataset(name, config or None, split=split, streaming=True)
    rows = rows.shuffle(
        seed=seed if seed is not None else random.getrandbits(31), buffer_size=SHUFFLED
    ).select_columns([field])
    for row in rows:
        text = text_of(row, field)
        if text is not None:
            yield text
