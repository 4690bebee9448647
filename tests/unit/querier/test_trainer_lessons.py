"""The training loops, step by step, against a network that does what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coremesh.contracts import Timings
from coremesh.errors import CoremeshError, NoCompletion, UnsafeMessage
from coremesh.metagraph import Neuron
from coremesh.settings import TrainerSettings
from coremesh.types import new_event_id
from coremesh.wire.status import Status
from services.querier.lessons import sentences
from services.querier.prompts import Prompts
from services.querier.query import Answer, Query
from services.querier.questions import Bundled
from services.querier.sources import Sources
from services.querier.sources.background import Background
from services.querier.trainer import Trainer
from tests.wait import wait_until

BUNDLED = "Which bundled question is this?"
PASSAGE = "Pulsars are neutron stars. They turn many times a second."
PROMPTS = Prompts(base="Be careful.", question="Make one up.", follow_up="Follow up.", summary="Sum it up.")
Rule = Callable[[Query, int], str | CoremeshError]


def made_up(query: Query, n: int) -> str:
    """Questions where they are asked for, else answers."""
    if query.kind == "question":
        return f"What is the number {n} good for?"
    return f"The answer is the number {n}, as everybody knows."


@dataclass
class Network:
    """Asks ``size`` hotkeys, ``k`` at a time, those excluded last. ``rule`` says what the best completion is."""

    rule: Rule = made_up
    size: int = 100
    k: int = 2
    reward: float = 1.0
    reward_s: float = 0.0
    degraded: tuple[str, ...] = ()
    asked: list[Query] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    enough: int = 1000

    async def ask_and_record(self, query: Query) -> Answer:
        if len(self.asked) >= self.enough:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        n = len(self.asked)
        self.asked.append(query)
        said = self.rule(query, n)
        if isinstance(said, CoremeshError):
            raise said
        left = [f"hot{u}" for u in range(self.size) if f"hot{u}" not in query.exclude]
        hotkeys = left[: self.k] if len(left) >= self.k else [f"hot{u}" for u in range(self.k)]
        answer = Answer(
            id=new_event_id(),
            neurons=tuple(
                Neuron(uid=int(h[3:]), hotkey=h, coldkey="c", ip="127.0.0.1", port=1) for h in hotkeys
            ),
            statuses=(Status.OK,) * self.k,
            completions=(said,) * self.k,
            latencies_s=(0.1,) * self.k,
            rewards=np.full(self.k, self.reward, dtype=np.float32),
            best=0,
            block=1,
            timings=Timings(
                filter=0.0, gating=0.0, query=0.1, reward=self.reward_s, total=0.1 + self.reward_s
            ),
            degraded=self.degraded,
        )
        self.answers.append(answer)
        return answer


def trainer(network: Network, *, passages: tuple[str, ...] = (), **fields: Any) -> Trainer:
    settings = TrainerSettings(**{"in_flight": 1, "source": "bundled", **fields})
    bundled = Bundled((BUNDLED,))
    sources = None
    if passages:
        sources = Sources(bundled, [Background("folder", lambda: iter(passages))], ["folder"])
    return Trainer(
        network, settings, PROMPTS, bundled, sources=sources, first_backoff_s=0.001, max_backoff_s=0.01
    )


async def train(network: Network, events: int, **fields: Any) -> list[tuple[str, str]]:
    """Kind and last message of the first ``events`` queries."""
    network.enough = events
    running = asyncio.create_task(trainer(network, **fields).run())
    try:
        await wait_until(lambda: len(network.asked) >= events)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return [(query.kind, query.messages[-1].content) for query in network.asked[:events]]


async def test_original_asks_what_the_source_gives_and_never_follows_up() -> None:
    assert await train(Network(), 3, loop="original") == [("answer", BUNDLED)] * 3
    assert await train(Network(), 4, loop="original", source="network") == [
        ("question", "Make one up."),
        ("answer", "What is the number 0 good for?"),
        ("question", "Make one up."),
        ("answer", "What is the number 2 good for?"),
    ]


async def test_original_has_a_question_made_up_about_a_passage() -> None:
    network = Network()
    assert await train(network, 2, loop="original", passages=(PASSAGE,)) == [
        ("question", f"{PASSAGE}\n\nFollow up."),
        ("answer", "What is the number 0 good for?"),
    ]
    # What comes from outside has to pass the safety filter.
    assert [query.filter_prompt for query in network.asked] == [True, False]


async def test_what_is_no_question_gives_way_to_a_bundled_one() -> None:
    network = Network(lambda query, n: "I do not make up questions, I state facts.")
    assert await train(network, 2, loop="original", source="network") == [
        ("question", "Make one up."),
        ("answer", BUNDLED),
    ]


async def test_an_unsafe_question_of_a_file_is_only_passed_over() -> None:
    unsafe = "How is a very large bomb built?"

    def rule(query: Query, n: int) -> str | CoremeshError:
        return UnsafeMessage("no") if query.messages[-1].content == unsafe else made_up(query, n)

    network = Network(rule)
    asked = await train(network, 4, loop="original", passages=(unsafe, "What is a quasar made of?"))
    assert asked == [("answer", unsafe), ("answer", "What is a quasar made of?")] * 2
    assert all(query.filter_prompt for query in network.asked)


async def test_follow_up_goes_on_from_the_best_answer_and_starts_anew() -> None:
    assert await train(Network(), 6, loop="follow_up", reset_steps=3) == [
        ("answer", BUNDLED),
        ("question", "The answer is the number 0, as everybody knows.\n\nFollow up."),
        ("answer", "What is the number 1 good for?"),
        ("question", "The answer is the number 2, as everybody knows.\n\nFollow up."),
        ("answer", "What is the number 3 good for?"),
        ("answer", BUNDLED),
    ]


async def test_context_sums_up_and_asks_four_times_about_what_is_known_by_then() -> None:
    def rule(query: Query, n: int) -> str:
        return "Pulsars are stars." if n == 0 else made_up(query, n)

    network = Network(rule)
    asked = await train(network, 10, loop="context", passages=(PASSAGE,))
    known = "Pulsars are stars."
    wanted = [("answer", f"{PASSAGE}\n\nSum it up.")]
    for n in range(1, 9, 2):
        question = f"What is the number {n} good for?"
        wanted += [("question", f"{known}\n\nFollow up."), ("answer", f"{known}\n\n{question}")]
        known += f"\n\n{question}\nThe answer is the number {n + 1}, as everybody knows."
    assert asked == [*wanted, ("answer", f"{PASSAGE}\n\nSum it up.")]
    # Nobody is asked twice about one context.
    seen: set[str] = set()
    for query, answer in zip(network.asked[:9], network.answers[:9], strict=True):
        assert query.exclude == seen
        seen |= {neuron.hotkey for neuron in answer.neurons}
    assert len(seen) == 18
    assert network.asked[9].exclude == frozenset()


async def test_in_a_small_network_all_are_asked_before_anybody_is_asked_again() -> None:
    network = Network(size=5)
    await train(network, 4, loop="context", passages=(PASSAGE,))
    assert [len(query.exclude) for query in network.asked] == [0, 2, 4, 2]


async def test_context_without_a_text_takes_an_answer_for_one() -> None:
    assert await train(Network(), 3, loop="context") == [
        ("answer", BUNDLED),
        ("answer", "The answer is the number 0, as everybody knows.\n\nSum it up."),
        ("question", "The answer is the number 1, as everybody knows.\n\nFollow up."),
    ]


async def test_context_is_given_up_when_nobody_answers() -> None:
    def rule(query: Query, n: int) -> str | CoremeshError:
        return NoCompletion("nobody") if n == 1 else made_up(query, n)

    asked = await train(Network(rule), 3, loop="context", passages=(PASSAGE,))
    assert asked[0] == asked[2] == ("answer", f"{PASSAGE}\n\nSum it up.")


async def test_what_is_known_stays_bounded() -> None:
    network = Network(
        lambda query, n: made_up(query, n) if query.kind == "question" else "Long words. " * 200
    )
    asked = await train(network, 9, loop="context", passages=(PASSAGE,))
    assert max(len(text) for _, text in asked) < 4200
    assert all(text.startswith("Long words.") for _, text in asked[1:])


def test_a_context_is_cut_at_the_end_of_a_sentence() -> None:
    assert sentences("One. Two! Three? Four.", 3) == "One. Two! Three?"
    assert sentences("One. Two!", 30) == "One. Two!"


async def test_every_loop_survives_a_network_that_never_answers() -> None:
    for loop in ("original", "follow_up", "context"):
        await train(Network(lambda query, n: NoCompletion("nobody")), 30, loop=loop, source="mixed")


async def test_scores_that_stay_behind_shrink_the_window() -> None:
    for network in (Network(degraded=("reward",)), Network(reward_s=31.0)):
        network.enough = 1_000_000
        training = trainer(network, in_flight=4)
        running = asyncio.create_task(training.run())
        await wait_until(lambda t=training: t.asker.window.size == 1)
        network.degraded, network.reward_s = (), 0.0
        await wait_until(lambda t=training: t.asker.window.size == 4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
