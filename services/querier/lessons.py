"""The three training loops, a step at a time."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Protocol

from coremesh.settings import TrainerSettings
from services.querier.asking import Asker
from services.querier.cleaning import clean
from services.querier.metrics import TRAINER_STEPS
from services.querier.prompts import Prompts
from services.querier.query import Answer
from services.querier.questions import Sieve
from services.querier.sources import PASSAGE_CHARS, Seed, Sources

MIN_SENTENCES, MAX_SENTENCES = 15, 30
"""Of a text's sentences a context has so many, drawn anew each time."""
FOLLOW_UPS = 4
"""Questions asked about one context."""
_SENTENCES = re.compile(r"(?<=[.!?。！？])\s+")


class Lesson(Protocol):
    """One line of training steps."""

    async def step(self) -> bool:
        """Ask the network once or twice. False when it gave nothing to learn from."""
        ...


@dataclass(frozen=True, slots=True)
class Desk:
    """What all lessons work with."""

    asker: Asker
    sources: Sources
    prompts: Prompts
    sieve: Sieve

    async def opening(self) -> Seed:
        """A question to start from: one of a source, or made up by a miner, from a passage where there is one."""
        seed = await self.sources.next()
        if seed is not None and seed.question:
            return seed
        if seed is None:
            made_up = await self.made_up(self.prompts.question)
        else:
            made_up = await self.made_up(about(seed.text, self.prompts.follow_up), foreign=seed.foreign)
        # Whatever the other source gave, the loop goes on.
        return Seed(made_up, question=True) if made_up is not None else self.sources.bundled()

    async def made_up(self, text: str, *, foreign: bool = False) -> str | None:
        """A miner's question, when it is one that is worth asking."""
        return self.usable(await self.asker.question(text, foreign=foreign))

    def usable(self, answer: Answer | None) -> str | None:
        """The question in an answer: rewarded for what it adds, shaped like a question, and not asked before."""
        if answer is None:
            return None
        reward = answer.reward(answer.best)
        if reward is None or reward <= 0:
            TRAINER_STEPS.labels("question", "not_rewarded").inc()
            return None
        question = self.sieve.take(answer.completion)
        if question is None:
            TRAINER_STEPS.labels("question", "sieved").inc()
        return question


def make_lesson(desk: Desk, settings: TrainerSettings, number: int) -> Lesson:
    """The chosen loop. Lines of another ``number`` start at another place, so that not all start anew at once."""
    if settings.loop == "original":
        return Original(desk)
    if settings.loop == "context":
        return Context(desk)
    return FollowUp(desk, settings.reset_steps, first=number)


class Original:
    """A question and its answers, and again."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def step(self) -> bool:
        """See Lesson.step."""
        seed = await self._desk.opening()
        answer = await self._desk.asker.answer(seed.text, foreign=seed.foreign)
        return _rewarded(answer)


class FollowUp:
    """Every ``reset_steps`` a new start; in between, a question that goes on from the last best answer."""

    def __init__(self, desk: Desk, reset_steps: int, *, first: int = 0) -> None:
        self._desk = desk
        self._reset_steps = reset_steps
        self._step = first
        self._passage = ""

    async def step(self) -> bool:
        """See Lesson.step."""
        desk = self._desk
        starts_anew = self._step % self._reset_steps == 0
        self._step += 1
        seed = None
        if not starts_anew:
            request = desk.prompts.question
            if self._passage:
                request = about(self._passage, desk.prompts.follow_up)
            question = await desk.made_up(request)
            seed = Seed(question, question=True) if question is not None else desk.sources.bundled()
        else:
            seed = await desk.opening()
        answer = await desk.asker.answer(seed.text, foreign=seed.foreign)
        self._passage = clean(answer.completion, PASSAGE_CHARS) if answer is not None else ""
        return _rewarded(answer)


class Context:
    """A context, its summary, then four times a question on it and the answer; winners extend what is known.

    Nobody is asked twice about one context, until everybody has been.
    """

    def __init__(self, desk: Desk, *, seed: int | None = None) -> None:
        self._desk = desk
        self._random = random.Random(seed)
        self._notes: list[str] = []
        """The summary, then the questions with their answers."""
        self._asked: set[str] = set()
        self._follow_ups = 0

    async def step(self) -> bool:
        """See Lesson.step."""
        if not self._notes:
            return await self._begin()
        self._follow_ups += 1
        learnt = await self._follow_up()
        if self._follow_ups >= FOLLOW_UPS or not learnt:
            self._notes = []
        return learnt

    async def _begin(self) -> bool:
        self._asked, self._follow_ups = set(), 0
        desk = self._desk
        seed = await desk.sources.next()
        if seed is None or seed.question:
            # There is no text: the best answer to the question is one.
            opened = seed or await self._made_up()
            answer = await desk.asker.answer(opened.text, foreign=opened.foreign)
            self._note(answer)
            if answer is None:
                return False
            seed = Seed(answer.completion, question=False)
        context = clean(
            sentences(seed.text, self._random.randint(MIN_SENTENCES, MAX_SENTENCES)), PASSAGE_CHARS
        )
        summary = await desk.asker.answer(
            about(context, desk.prompts.summary), exclude=self._asked, foreign=seed.foreign
        )
        self._note(summary)
        if summary is not None:
            self._notes = [clean(summary.completion, PASSAGE_CHARS)]
        return _rewarded(summary)

    async def _made_up(self) -> Seed:
        desk = self._desk
        made_up = await desk.made_up(desk.prompts.question)
        return Seed(made_up, question=True) if made_up is not None else desk.sources.bundled()

    async def _follow_up(self) -> bool:
        desk = self._desk
        asked = await desk.asker.question(about(self._known(), desk.prompts.follow_up), exclude=self._asked)
        self._note(asked)
        question = desk.usable(asked)
        if question is None:
            return _rewarded(asked)
        answer = await desk.asker.answer(about(self._known(), question), exclude=self._asked)
        self._note(answer)
        if answer is not None:
            self._notes.append(f"{question}\n{clean(answer.completion, PASSAGE_CHARS)}")
        return _rewarded(answer)

    def _known(self) -> str:
        """The summary and the newest of what was learnt, within PASSAGE_CHARS."""
        summary, *pairs = self._notes
        while pairs and len(summary) + sum(len(pair) + 2 for pair in pairs) > PASSAGE_CHARS:
            pairs.pop(0)
        return "\n\n".join((summary, *pairs))

    def _note(self, answer: Answer | None) -> None:
        """Whom to leave out from now on. Somebody asked again means that everybody else had been."""
        if answer is None:
            return
        hotkeys = {neuron.hotkey for neuron in answer.neurons}
        self._asked = hotkeys if hotkeys & self._asked else self._asked | hotkeys


def about(text: str, request: str) -> str:
    """A request that is about a text."""
    return f"{text}\n\n{request}"


def sentences(text: str, most: int) -> str:
    """The first ``most`` sentences."""
    return " ".join(_SENTENCES.split(text, maxsplit=most)[:most])


def _rewarded(answer: Answer | None) -> bool:
    return answer is not None and answer.reward(answer.best) is not None
