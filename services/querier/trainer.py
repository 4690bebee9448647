"""The training loop: question, answer, and again, for ever."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Protocol

import structlog

from coremesh.contracts import ChatMessage
from coremesh.errors import CoremeshError, NoCompletion
from coremesh.settings import TrainerSettings
from services.querier.choose import TopK
from services.querier.cleaning import clean
from services.querier.metrics import TRAINER_STEPS
from services.querier.prompts import Prompts
from services.querier.query import Answer, Query
from services.querier.questions import Bundled, Sieve

log = structlog.get_logger(__name__)

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 15.0
PASSAGE_CHARS = 4000
"""Characters of an answer that a follow-up question is asked about."""


class Network(Protocol):
    """Asks the network and waits for the event to be recorded: a Forwarder."""

    async def ask_and_record(self, query: Query) -> Answer:
        """Raises CoremeshError: nobody to ask, nobody answered, busy."""
        ...


@dataclass
class Chain:
    """What one line of training steps goes on from."""

    step: int = 0
    passage: str = ""
    """The last best answer."""


class Trainer:
    """Runs ``in_flight`` chains of steps. No failure of miners, services or sources ends them; they only wait."""

    def __init__(
        self,
        network: Network,
        settings: TrainerSettings,
        prompts: Prompts,
        bundled: Bundled,
        *,
        first_backoff_s: float = FIRST_BACKOFF_S,
        max_backoff_s: float = MAX_BACKOFF_S,
        filter_texts: bool = True,
    ) -> None:
        self._network = network
        self._settings = settings
        self._prompts = prompts
        self._bundled = bundled
        self._sieve = Sieve(settings.max_question_chars)
        self._first_backoff_s = first_backoff_s
        self._max_backoff_s = max_backoff_s
        self._filter_texts = filter_texts
        self._topk: TopK = None if settings.topk < 1 else settings.topk
        self._next_start = 0.0
        self.steps = 0

    async def run(self) -> None:
        """Train, for ever."""
        async with asyncio.TaskGroup() as chains:
            for n in range(self._settings.in_flight):
                # Chains start at different steps, so that not all of them start anew at once.
                chains.create_task(self._train(Chain(step=n)), name=f"training-{n}")

    async def _train(self, chain: Chain) -> None:
        failures = 0
        while True:
            await self._pace()
            if await self.step(chain):
                failures = 0
                continue
            failures += 1
            backoff = min(self._max_backoff_s, self._first_backoff_s * 2 ** min(failures, 16))
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))

    async def step(self, chain: Chain) -> bool:
        """One question and its answers. False when the network gave nothing to learn from."""
        settings = self._settings
        question = None
        starts_anew = chain.step % settings.reset_steps == 0
        chain.step += 1
        self.steps += 1
        if settings.source == "network" or (settings.source == "mixed" and not starts_anew):
            question = await self._ask_for_question(chain)
        if question is None:
            # Whatever the other source gave, the loop goes on.
            question = self._bundled.next()
        answer = await self._ask(
            "answer",
            (
                ChatMessage(role="system", content=self._prompts.base),
                ChatMessage(role="user", content=question),
            ),
            timeout_s=settings.timeout_s,
            sample=settings.random_sample,
        )
        if answer is None:
            chain.passage = ""
            return False
        chain.passage = clean(answer.completion, PASSAGE_CHARS)
        return answer.reward(answer.best) is not None

    async def _ask_for_question(self, chain: Chain) -> str | None:
        """A question made up by a miner, when it is one that is worth asking."""
        text = self._prompts.question
        if chain.passage and self._settings.source == "mixed":
            text = f"{chain.passage}\n\n{self._prompts.follow_up}"
        answer = await self._ask(
            "question",
            (ChatMessage(role="user", content=text),),
            timeout_s=self._settings.question_timeout_s,
            sample=self._settings.question_random_sample,
        )
        if answer is None:
            return None
        reward = answer.reward(answer.best)
        if reward is None or reward <= 0:
            TRAINER_STEPS.labels("question", "not_rewarded").inc()
            return None
        question = self._sieve.take(answer.completion)
        if question is None:
            TRAINER_STEPS.labels("question", "sieved").inc()
        return question

    async def _ask(
        self, step: str, messages: tuple[ChatMessage, ...], *, timeout_s: float, sample: bool
    ) -> Answer | None:
        query = Query(
            messages=messages,
            kind=step,
            topk=self._topk,
            timeout_s=timeout_s,
            sample=sample,
            train_gating=True,
            train_network=self._settings.train_network,
            difference=step == "question",
            every=True,
            filter_completions=step == "question" and self._filter_texts,
            reward_timeout_s=self._settings.reward_timeout_s,
        )
        try:
            answer = await self._network.ask_and_record(query)
        except NoCompletion as error:
            TRAINER_STEPS.labels(step, error.code).inc()
            return None
        except CoremeshError as error:
            TRAINER_STEPS.labels(step, error.code).inc()
            log.warning("training step failed", step=step, reason=error.message)
            return None
        TRAINER_STEPS.labels(step, "ok").inc()
        return answer

    async def _pace(self) -> None:
        """Let at most one step of all chains start every ``pause_s``."""
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + self._settings.pause_s
        if start > now:
            await asyncio.sleep(start - now)
