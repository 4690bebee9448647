"""Asking the network for the sake of training."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Literal, Protocol

import structlog

from coremesh.contracts import ChatMessage
from coremesh.errors import CoremeshError, NoCompletion
from coremesh.settings import TrainerSettings
from services.querier.choose import TopK
from services.querier.metrics import TRAINER_STEPS
from services.querier.pacing import Pace, Window
from services.querier.prompts import Prompts
from services.querier.query import Answer, Query
from services.querier.timeouts import timeout_s

MOST_TIMEOUT_S = 120.0
"""Longest that miners get, however long the prompt: no setting allows more."""
log = structlog.get_logger(__name__)


class Network(Protocol):
    """Asks the network and waits for the event to be recorded: a Forwarder."""

    async def ask_and_record(self, query: Query) -> Answer:
        """Raises CoremeshError: nobody to ask, nobody answered, busy."""
        ...


class Asker:
    """Asks for questions and for answers, paced by the event rate wanted and by how fast scores come. Never raises.

    Nothing is asked while ``leads`` says no: another trainer does.
    """

    def __init__(
        self,
        network: Network,
        settings: TrainerSettings,
        prompts: Prompts,
        *,
        filter_texts: bool,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._leads = leads
        self._network = network
        self._settings = settings
        self._prompts = prompts
        self._filter_texts = filter_texts
        self._topk: TopK = None if settings.topk < 1 else settings.topk
        rate = settings.events_per_minute
        self._pace = Pace(60.0 / rate if rate else 0.0)
        self.window = Window(settings.in_flight)

    async def question(
        self, text: str, *, exclude: Set[str] = frozenset(), foreign: bool = False
    ) -> Answer | None:
        """What miners make of a request for a question; scored by what it adds to the request."""
        return await self._ask("question", (ChatMessage(role="user", content=text),), exclude, foreign)

    async def answer(
        self, question: str, *, exclude: Set[str] = frozenset(), foreign: bool = False
    ) -> Answer | None:
        """Answers to a question, under the base prompt. ``foreign``: the question has to pass the filter first."""
        messages = (
            ChatMessage(role="system", content=self._prompts.base),
            ChatMessage(role="user", content=question),
        )
        return await self._ask("answer", messages, exclude, foreign)

    async def _ask(
        self,
        step: Literal["question", "answer"],
        messages: tuple[ChatMessage, ...],
        exclude: Set[str],
        foreign: bool,
    ) -> Answer | None:
        settings = self._settings
        asks_question = step == "question"
        async with self.window:
            await self._pace.wait()
            if not self._leads():
                return None
            # Made here, so that the event's id tells when it was asked.
            query = Query(
                messages=messages,
                kind=step,
                topk=self._topk,
                timeout_s=timeout_s(
                    settings.question_timeout_s if asks_question else settings.timeout_s,
                    settings.timeout_per_char_s,
                    messages,
                    most_s=MOST_TIMEOUT_S,
                ),
                sample=settings.question_random_sample if asks_question else settings.random_sample,
                exclude=frozenset(exclude),
                train_gating=True,
                train_network=settings.train_network,
                difference=asks_question,
                every=True,
                filter_prompt=foreign and self._filter_texts,
                filter_completions=asks_question and self._filter_texts,
                reward_timeout_s=settings.reward_timeout_s,
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
        slow = answer.timings.reward > settings.reward_timeout_s / 2
        self.window.heard(behind=slow or "reward" in answer.degraded)
        TRAINER_STEPS.labels(step, "ok").inc()
        return answer
