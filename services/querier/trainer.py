"""The training loop: question, answer, and again, for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from coremesh.settings import TrainerSettings
from services.querier.asking import Asker, Network
from services.querier.lessons import Desk, Lesson, make_lesson
from services.querier.pacing import Pace
from services.querier.prompts import Prompts
from services.querier.questions import Bundled, Sieve
from services.querier.sources import Sources, make_sources

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 15.0


class Trainer:
    """Runs ``in_flight`` lessons. No failure of miners, services or sources ends them; they only wait."""

    def __init__(
        self,
        network: Network,
        settings: TrainerSettings,
        prompts: Prompts,
        bundled: Bundled,
        *,
        sources: Sources | None = None,
        first_backoff_s: float = FIRST_BACKOFF_S,
        max_backoff_s: float = MAX_BACKOFF_S,
        filter_texts: bool = True,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._sources = sources or make_sources(settings, bundled)
        self._first_backoff_s = first_backoff_s
        self._max_backoff_s = max_backoff_s
        self._pace = Pace(settings.pause_s)
        self.asker = Asker(network, settings, prompts, filter_texts=filter_texts, leads=leads)
        self._desk = Desk(self.asker, self._sources, prompts, Sieve(settings.max_question_chars))
        self.steps = 0

    async def run(self) -> None:
        """Train, for ever."""
        try:
            async with asyncio.TaskGroup() as lines:
                for n in range(self._settings.in_flight):
                    lesson = make_lesson(self._desk, self._settings, n)
                    lines.create_task(self._train(lesson), name=f"training-{n}")
        finally:
            self._sources.close()

    async def _train(self, lesson: Lesson) -> None:
        failures = 0
        while True:
            await self._pace.wait()
            self.steps += 1
            if await lesson.step():
                failures = 0
                continue
            failures += 1
            backoff = min(self._max_backoff_s, self._first_backoff_s * 2 ** min(failures, 16))
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
