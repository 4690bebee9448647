"""One query of the network, from choosing miners to the recorded event."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from coremesh.contracts import Timings
from coremesh.errors import CoremeshError, NoCompletion, NoMinerAvailable, UnsafeMessage
from coremesh.history.spool import SpoolFull
from coremesh.metagraph import Neuron
from coremesh.service import traces
from coremesh.wire.status import Status
from services.querier.book import Book
from services.querier.choose import Choice, Chooser
from services.querier.judge import FilterAway, Judge, Safety, Verdict
from services.querier.live import LiveText
from services.querier.metrics import DEGRADED, EVENTS, FORWARDS, OVERHEAD_SECONDS, REPLIES, Stopwatch
from services.querier.ports import EventSink, Fanout, Reply
from services.querier.query import Answer, Query, status_name
from services.querier.record import NOTHING_JUDGED, Judged, column, event_of
from services.querier.replies import Replies
from services.querier.snapshot import SnapshotFollower

log = structlog.get_logger(__name__)

SLACK_S = 1.0
"""How much longer than the miners' timeout a fan-out may last. What is still open then was held up by
ourselves (a miner's own time is kept by the client), so it is left out of the event and charged to nobody."""
AFTERWARDS_S = 0.02
"""How long everything that follows an answer waits. Under load several are due at once, and all of their callers are
answered before the event loop turns to late completions and to events."""
NO_REWARD_MODEL = "gating"
"""The stack version of rewards that are gating scores."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a forward works with. ``rewarding`` is false where there is no reward model at all: then gating scores
    are the rewards, as in the original."""

    snapshot: SnapshotFollower
    chooser: Chooser
    fanout: Fanout
    judge: Judge
    events: EventSink
    book: Book
    min_chars: int
    grace_s: float
    rewarding: bool = True


def _left(available: tuple[Neuron, ...], query: Query) -> tuple[Neuron, ...]:
    """Whom the query may ask: a network too small for its exclusions is asked all over."""
    if not query.exclude:
        return available
    left = tuple(neuron for neuron in available if neuron.hotkey not in query.exclude)
    wanted = 1 if query.topk == "auto" else min(query.topk or len(available), len(available))
    return left if len(left) >= wanted else available


class Forward:
    """One query. ``run`` is one task to its end, the event recorded; ``answer`` may be there earlier.

    ``answer`` gives an Answer, or raises NoMinerAvailable, NoCompletion, UnsafeMessage or FilterAway; whoever waits for
    it may cancel it.
    """

    def __init__(self, parts: Parts, query: Query, *, crowded: Callable[[], bool] = lambda: False) -> None:
        """While it is ``crowded`` here, completions whose caller has its answer already go without rewards."""
        self.query = query
        self._crowded = crowded
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        # A caller may have gone: its error is then nobody's.
        self.answer.add_done_callback(lambda f: f.cancelled() or f.exception())
        self._parts = parts
        self._watch = Stopwatch()
        self._degraded: set[str] = set()
        self._available = 0
        self._block = 0
        self._choice = Choice((), (), 0, degraded=False, random=query.sample)
        self._replies = Replies(0, parts.min_chars)
        self.live = LiveText(parts.min_chars) if query.live else None
        """What the first miner says while it says it, where that is wanted and may be shown."""
        self._known_safe: set[int] = set()
        self._failure: BaseException | None = None
        self._arrived = asyncio.Event()
        self._collected = asyncio.Event()
        self._models_s = 0.0
        self._trace = ""

    @property
    def first(self) -> Neuron:
        """The most promising miner, whom ``live`` listens to. Known once anything was heard."""
        return self._choice.neurons[0]

    @property
    def _by_reward(self) -> bool:
        """Whether the highest reward is chosen, and not the first in gating order."""
        return self.query.by_reward and self.live is None

    def cut(self) -> None:
        """Stop waiting for miners: what has come is judged and recorded, the rest is charged to nobody."""
        self._collected.set()
        self._arrived.set()

    async def run(self) -> None:
        """Everything, in order. Never raises for what miners, services or the caller do."""
        result = "error"
        # A task of its own: its log lines, and those of the services that it calls, name the event.
        structlog.contextvars.bind_contextvars(event_id=self.query.id)
        try:
            with traces.span("forward", event_id=self.query.id, kind=self.query.kind) as span:
                self._trace = traces.trace_id()
                result = await self._run()
                span.set(result=result)
        except CoremeshError as error:
            result = error.code
            self._fail(error)
        except Exception as error:
            log.error("forward failed", event_id=self.query.id, exc_info=error)
            self._fail(error)
        finally:
            FORWARDS.labels(self.query.kind, result).inc()
            for part in self._degraded:
                DEGRADED.labels(part).inc()
            if not self.answer.done():
                self.answer.cancel()

    async def _run(self) -> str:
        await self._choose()
        neurons = self._choice.neurons
        if not neurons:
            error = NoMinerAvailable("no miner of this subnet can be asked now")
            self._fail(error)
            await self._record(NOTHING_JUDGED, -1)
            return error.code
        collecting = asyncio.create_task(self._collect(), name=f"fanout-{self.query.id}")
        try:
            with self._watch.stage("query"):
                await self._until_enough()
            judged = await self._judge()
            if self._best(judged) < 0:
                # None of the early ones will do: the caller waits for the rest after all, which may have come while
                # these were judged.
                with self._watch.stage("query"):
                    await self._collected.wait()
                judged = await self._judge()
            best = self._best(judged)
            if best >= 0 and self.query.must_filter and "filter" in judged.verdict.degraded:
                # The caller is refused; what the miners did is judged and recorded all the same.
                self._fail(FilterAway("the safety filter went away, and no answer passes without it"))
            elif best >= 0:
                with traces.span("choose") as span:
                    answer = self._answer(judged, best)
                    span.set(
                        uid=answer.neuron.uid, hotkey=answer.neuron.hotkey, reward=answer.reward(best) or 0.0
                    )
                if not self.answer.done():  # its caller may have given it up
                    self.answer.set_result(answer)
                await asyncio.sleep(AFTERWARDS_S)
            await self._collected.wait()
            owing = self._owes_rewards(judged)
            crowded = owing and self._crowded()
            if crowded:
                self._degraded.add("reward")
            if list(judged.indices) != self._replies.good() or (owing and not crowded):
                judged = await self._judge(late=not crowded)
                best = self._best(judged)
        finally:
            collecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await collecting
        if best < 0:
            self._fail(NoCompletion(f"none of {len(neurons)} miners gave a usable completion"))
        told = self._tell(judged)
        await self._record(judged, best, told=told)
        return self._failure.code if isinstance(self._failure, CoremeshError) else "ok"

    async def _choose(self) -> None:
        query, parts = self.query, self._parts
        filtering = None
        if query.filter_prompt:
            texts = [m.content for m in query.messages if m.role == "user"]
            filtering = asyncio.create_task(self._filter(texts))
        try:
            snapshot = parts.snapshot.current
            available = _left(parts.snapshot.available, query)
            self._block = snapshot.block if snapshot else 0
            self._available = len(available)
            if available:
                with self._watch.stage("gating"), traces.span("gate", available=len(available)) as span:
                    self._choice = await parts.chooser.choose(
                        available,
                        query.messages,
                        topk=query.topk,
                        sample=query.sample,
                        deadline_s=query.timeout_s,
                    )
                    span.set(
                        chosen=len(self._choice.neurons),
                        degraded=self._choice.degraded,
                        head_version=self._choice.head_version,
                    )
                self._models_s = self._choice.took_s
                if self._choice.degraded:
                    self._degraded.add("gating")
            if filtering is not None:
                with self._watch.stage("filter"):
                    safety = await filtering
                # Both were asked at once.
                self._models_s = max(self._models_s, safety.took_s)
                if not safety.judged:
                    self._degraded.add("filter")
                    if query.must_filter:
                        raise FilterAway("the safety filter is away, and nothing passes without it")
                if not all(safety.safe):
                    raise UnsafeMessage("the safety filter refuses this message")
                if safety.active and query.filter_completions:
                    # A text that is to be judged is not shown before it is whole.
                    self.live = None
        finally:
            if filtering is not None:
                filtering.cancel()
        self._replies = Replies(len(self._choice.neurons), parts.min_chars)

    async def _filter(self, texts: list[str]) -> Safety:
        with traces.span("filter", texts=len(texts)) as span:
            safety = await self._parts.judge.safe(texts)
            span.set(safe=all(safety.safe), judged=safety.judged)
            return safety

    async def _collect(self) -> None:
        """Take replies as they come, until all are there, the time is over, or the forward is cut."""
        with traces.span("fan-out", asked=len(self._choice.neurons)) as span:
            await self._hear()
            span.set(good=len(self._replies.good()), open=self._replies.open)

    async def _hear(self) -> None:
        query = self.query
        replies = self._parts.fanout.ask(
            self._choice.neurons,
            query.messages,
            query.timeout_s,
            on_delta=self.live.hear if self.live is not None else None,
            expected_s=[self._parts.book.expected_s(neuron.hotkey) for neuron in self._choice.neurons],
        )
        try:
            async with asyncio.timeout(query.timeout_s + SLACK_S):
                async for reply in replies:
                    if self._collected.is_set():
                        break
                    self._take(reply)
                    self._arrived.set()
        except TimeoutError:
            log.warning("fan-out over time", event_id=query.id, open=self._replies.open)
        finally:
            self._collected.set()
            self._arrived.set()
            if self.live is not None:
                self.live.end(good=self._replies.statuses[0] == Status.OK)
            await replies.aclose()

    def _take(self, reply: Reply) -> None:
        status = self._replies.take(reply)
        if self.live is not None and reply.index == 0:
            self.live.end(good=status == Status.OK)
        REPLIES.labels(status_name(status)).inc()
        neuron = self._choice.neurons[reply.index]
        traces.leaf(
            "miner", reply.latency_s, uid=neuron.uid, hotkey=neuron.hotkey, status=status_name(status)
        )
        if status.charged:
            self._parts.book.note(neuron.hotkey, status, reply.latency_s)

    async def _until_enough(self) -> None:
        """Return when the caller can be answered, as far as miners are concerned."""
        if self.query.wait_for is None and (self._by_reward or self.query.every):
            await self._collected.wait()  # not woken by every reply
            return
        while not self._collected.is_set():
            if self.query.wait_for is not None and len(self._replies.good()) >= self.query.wait_for:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._collected.wait(), self._parts.grace_s)
                return
            if not self._by_reward and not self.query.every and self._replies.first_is_known():
                return
            await self._arrived.wait()
            self._arrived.clear()

    def _scores(self, late: bool) -> bool:
        """Whether the reward service is asked: always when rewards choose, else once the caller has its answer."""
        return self._parts.rewarding and (self._by_reward or (late and self.query.scored))

    def _owes_rewards(self, judged: Judged) -> bool:
        return (
            bool(judged.indices)
            and judged.verdict.rewards is None
            and self._scores(True) != self._scores(False)
        )

    async def _judge(self, late: bool = False) -> Judged:
        """Judge the good completions there are; unsafe ones are no longer good."""
        query = self.query
        indices = self._replies.good()
        with self._watch.stage("reward"), traces.span("reward", completions=len(indices), late=late) as span:
            verdict = await self._parts.judge.judge(
                query.messages,
                [self._replies.completions[i] for i in indices],
                kind=query.kind,
                difference=query.difference,
                score=self._scores(late),
                filter_texts=query.filter_completions and not self._known_safe.issuperset(indices),
                timeout_s=query.reward_timeout_s,
            )
            span.set(stack=verdict.stack_version, scored=verdict.rewards is not None)
        self._models_s += verdict.took_s
        self._degraded |= verdict.degraded
        if not self._parts.rewarding and self._choice.gating:
            given = tuple(self._choice.gating[i] for i in indices)
            verdict = Verdict(rewards=given, safe=verdict.safe, stack_version=NO_REWARD_MODEL)
        n = len(self._choice.neurons)
        rewards = column(n, [], ())
        for place, i in enumerate(indices):
            if not verdict.safe[place]:
                self._replies.statuses[i] = Status.UNSAFE
            elif verdict.rewards is not None:
                rewards[i] = verdict.rewards[place]
        safe = tuple(i for i in indices if self._replies.statuses[i] == Status.OK)
        if "filter" not in verdict.degraded:
            self._known_safe.update(safe)
        parts = {name: column(n, indices, values) for name, values in verdict.parts.items()}
        return Judged(safe, verdict, rewards, parts)

    def _best(self, judged: Judged) -> int:
        """The best completion: the highest reward, or without rewards the first in gating order; -1 for none."""
        if self._by_reward:
            rewarded = [i for i in judged.indices if math.isfinite(judged.rewards[i])]
            if rewarded:
                return max(rewarded, key=lambda i: float(judged.rewards[i]))
        return judged.indices[0] if judged.indices else -1

    def _answer(self, judged: Judged, best: int) -> Answer:
        # What came while the others were judged is not judged itself, and so is not shown.
        shown = set(judged.indices)
        seconds = self._watch.seconds
        OVERHEAD_SECONDS.observe(max(0.0, self._watch.total - seconds.get("query", 0.0)))
        return Answer(
            id=self.query.id,
            neurons=self._choice.neurons,
            statuses=tuple(
                None if status == Status.OK and i not in shown else status
                for i, status in enumerate(self._replies.statuses)
            ),
            completions=tuple(text if i in shown else "" for i, text in enumerate(self._replies.completions)),
            latencies_s=tuple(self._replies.latencies_s),
            rewards=judged.rewards,
            best=best,
            block=self._block,
            timings=Timings(
                filter=seconds.get("filter", 0.0),
                gating=seconds.get("gating", 0.0),
                query=seconds.get("query", 0.0),
                reward=seconds.get("reward", 0.0),
                total=self._watch.total,
                models=self._models_s,
            ),
            degraded=tuple(sorted(self._degraded)),
        )

    def _fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self._failure = error
            self.answer.set_exception(error)

    def _tell(self, judged: Judged) -> bool:
        """Send the rewards back to the miners that earned them, when asked to."""
        told = [i for i in judged.indices if math.isfinite(judged.rewards[i])]
        if not self.query.train_network or not told:
            return False
        self._parts.fanout.reward(
            [self._choice.neurons[i] for i in told],
            self.query.messages,
            [self._replies.completions[i] for i in told],
            [float(judged.rewards[i]) for i in told],
        )
        return True

    async def _record(self, judged: Judged, best: int, *, told: bool = False) -> None:
        event, transcript, hotkeys = event_of(
            self.query,
            self._choice,
            self._replies,
            judged,
            best=best,
            told=told,
            block=self._block,
            available=self._available,
            degraded=tuple(sorted(self._degraded)),
            trace=self._trace,
        )
        with self._watch.stage("record"), traces.span("record"):
            try:
                await self._parts.events.record(event, transcript, hotkeys)
            except (SpoolFull, OSError) as error:
                EVENTS.labels("lost").inc()
                log.critical("event lost", event_id=self.query.id, reason=str(error))
