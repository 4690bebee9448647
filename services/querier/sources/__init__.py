"""What the training loop asks about: bundled questions, files, a data set, or what the network makes up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from coremesh.errors import BadSetting
from coremesh.settings import TrainerSettings
from services.querier.cleaning import clean
from services.querier.questions import Bundled, Sieve, says_something
from services.querier.sources.background import Background
from services.querier.sources.folder import has_parquet, has_pyarrow, read_folder
from services.querier.sources.hub import has_datasets, read_hub

PASSAGE_CHARS = 4000
"""Characters of a passage, or of an answer, that are asked about."""


@dataclass(frozen=True, slots=True)
class Seed:
    """What a line of questions starts from: a question that can be asked as it is, or a passage to ask about."""

    text: str
    question: bool
    foreign: bool = False
    """It came from outside and has not passed the safety filter."""


class Sources:
    """The chosen sources, in turn. Where one has nothing to give a bundled question takes its place."""

    def __init__(self, bundled: Bundled, others: Sequence[Background], turns: Sequence[str]) -> None:
        """``turns`` names sources: ``bundled``, ``network``, or one of ``others``. Raises ValueError for another."""
        self._bundled = bundled
        self._others = {source.name: source for source in others}
        self._turns = tuple(turns)
        if unknown := set(turns) - {"bundled", "network", *self._others}:
            raise ValueError(f"there is no source {', '.join(sorted(unknown))}")
        self._turn = 0

    async def next(self) -> Seed | None:
        """What to start from, or None: ask the network for a question. Never raises."""
        name = self._turns[self._turn % len(self._turns)]
        self._turn += 1
        if name == "network":
            return None
        source = self._others.get(name)
        text = await source.next() if source is not None else None
        if text is None:
            return self.bundled()
        return Seed(text, question=_is_question(text), foreign=True)

    def bundled(self) -> Seed:
        """A bundled question: always there."""
        return Seed(self._bundled.next(), question=True)

    def close(self) -> None:
        """Stop reading."""
        for source in self._others.values():
            source.close()


def make_sources(settings: TrainerSettings, bundled: Bundled) -> Sources:
    """The sources of the settings; nothing is read before the first is asked for."""
    others: list[Background] = []
    folder, dataset, field = settings.folder, settings.dataset, settings.text_field
    if folder is not None and settings.source in ("folder", "mixed"):
        others.append(Background("folder", _usable(settings, lambda: read_folder(folder, field))))
    if dataset and settings.source in ("hub", "mixed"):
        config, split = settings.dataset_config, settings.dataset_split
        others.append(Background("hub", _usable(settings, lambda: read_hub(dataset, config, split, field))))
    if settings.source != "mixed":
        known = {source.name for source in others} | {"network"}
        return Sources(bundled, others, (settings.source if settings.source in known else "bundled",))
    turns = ["bundled", *(source.name for source in others)]
    if settings.loop == "original":
        # The other loops have the network's own questions anyway: those that follow up.
        turns.append("network")
    return Sources(bundled, others, turns)


def check_sources(settings: TrainerSettings) -> None:
    """Raises BadSetting for a source that cannot work: not named, or without the library that it needs.

    A folder or hub that is merely away now is no error: the loop goes on without it until it is back.
    """
    folder = settings.folder
    if settings.source == "folder" and folder is None:
        raise BadSetting(
            "trainer.source is folder, and trainer.folder is not set",
            remedy="Set COREMESH_TRAINER_FOLDER to a folder of .txt, .md, .jsonl or .parquet files.",
        )
    if settings.source == "hub" and not settings.dataset:
        raise BadSetting(
            "trainer.source is hub, and trainer.dataset is not set",
            remedy="Set COREMESH_TRAINER_DATASET to the name of a data set on the hub.",
        )
    reads_folder = folder is not None and settings.source in ("folder", "mixed")
    if reads_folder and folder is not None and not has_pyarrow() and has_parquet(folder):
        raise BadSetting(
            f"there are Parquet files in trainer.folder ({folder}), and pyarrow is not installed",
            remedy="Install pyarrow, or name a folder without Parquet files.",
        )
    if settings.dataset and settings.source in ("hub", "mixed") and not has_datasets():
        raise BadSetting(
            "trainer.dataset needs the library datasets, which is not installed",
            remedy="Install datasets, or unset COREMESH_TRAINER_DATASET.",
        )


def _is_question(text: str) -> bool:
    """Whether a text of a data set can be asked as it is."""
    return text.endswith("?") and len(text) <= 500 and "\n\n" not in text


def _usable(settings: TrainerSettings, read: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
    """One pass of ``read``, cleaned, without what says nothing or came before in the pass."""

    def usable() -> Iterator[str]:
        sieve = Sieve(settings.max_question_chars)
        for text in read():
            passage = clean(text, PASSAGE_CHARS)
            if says_something(passage) and sieve.is_new(passage):
                yield passage

    return usable
