"""The querier's knowledge as REST responses."""

from __future__ import annotations

from coremesh.contracts import (
    AxonResponse,
    ChatMessage,
    ForwardResponse,
    HistoryRow,
    InferenceResponse,
    MetagraphResponse,
    MinerRow,
    MinersResponse,
    NeuronRow,
)
from coremesh.errors import NoMinerAvailable
from coremesh.events import ForwardEvent, Transcript
from coremesh.history import Entry
from coremesh.types import finite
from coremesh.wire.status import name_of
from services.querier.book import Book
from services.querier.query import Answer, seconds, status_name
from services.querier.snapshot import SnapshotFollower


def inference(answer: Answer, *, every: bool) -> InferenceResponse:
    """What a user gets."""
    return InferenceResponse(
        completion=answer.completion,
        uid=answer.neuron.uid,
        hotkey=answer.neuron.hotkey,
        reward=answer.reward(answer.best),
        completions=answer.items() if every else None,
        event_id=answer.id,
        timings=answer.timings,
        degraded=answer.degraded,
    )


def forward(answer: Answer) -> ForwardResponse:
    """What an operator gets: every queried uid, in the order they were chosen."""
    return ForwardResponse(
        event_id=answer.id,
        completion=answer.completion,
        uid=answer.neuron.uid,
        hotkey=answer.neuron.hotkey,
        reward=answer.reward(answer.best),
        uids=tuple(neuron.uid for neuron in answer.neurons),
        hotkeys=tuple(neuron.hotkey for neuron in answer.neurons),
        completions=answer.completions,
        statuses=tuple(status_name(status) for status in answer.statuses),
        rewards=tuple(answer.reward(i) for i in range(len(answer.neurons))),
        latencies_s=tuple(seconds(latency) for latency in answer.latencies_s),
        block=answer.block,
        timings=answer.timings,
        degraded=answer.degraded,
    )


def axon(answer: Answer) -> AxonResponse:
    """What a hotkey gets from our axon."""
    return AxonResponse(
        completion=answer.completion,
        uid=answer.neuron.uid,
        hotkey=answer.neuron.hotkey,
        event_id=answer.id,
        degraded=answer.degraded,
    )


def metagraph(snapshot: SnapshotFollower) -> MetagraphResponse:
    """The snapshot in use. Raises NoMinerAvailable while none is known."""
    current = snapshot.current
    if current is None:
        raise NoMinerAvailable("no metagraph is known yet")
    askable = {neuron.uid for neuron in snapshot.available}
    return MetagraphResponse(
        netuid=current.netuid,
        block=current.block,
        time_ms=current.time_ms,
        size=current.size,
        hotkey=current.hotkey,
        vpermit_tao_limit=current.vpermit_tao_limit,
        neurons=tuple(
            NeuronRow(
                uid=n.uid,
                hotkey=n.hotkey,
                coldkey=n.coldkey,
                ip=n.ip,
                port=n.port,
                stake=n.stake,
                permit=n.permit,
                validator=current.is_validator(n),
                available=n.uid in askable,
                last_update=n.last_update,
                registered_at=n.registered_at,
            )
            for n in current.neurons
        ),
    )


def miners(snapshot: SnapshotFollower, book: Book) -> MinersResponse:
    """Every uid with what this querier has seen of it."""
    askable = {neuron.uid for neuron in snapshot.available}
    rows: list[MinerRow] = []
    for neuron in snapshot.current.neurons if snapshot.current else ():
        page = book.page(neuron.hotkey)
        rows.append(
            MinerRow(
                uid=neuron.uid,
                hotkey=neuron.hotkey,
                available=neuron.uid in askable,
                asked=page.asked,
                succeeded=page.succeeded,
                last_status=status_name(page.last_status) if page.last_status is not None else None,
                latency_s=page.latency_s,
            )
        )
    return MinersResponse(block=snapshot.block, available=len(askable), miners=tuple(rows))


def history_row(
    entry: Entry, event: ForwardEvent, hotkeys: dict[int, str], transcript: Transcript | None, *, texts: bool
) -> HistoryRow:
    """An event of the history; ``hotkeys`` are those behind its digests."""
    return HistoryRow(
        event_id=event.id,
        stream_id=entry.stream_id,
        time_ms=event.time_ms,
        block=event.block,
        kind=event.kind,
        flags=event.flag_names,
        uids=tuple(int(uid) for uid in event.uids),
        hotkeys=tuple(hotkeys.get(int(digest), "") for digest in event.hotkeys),
        statuses=tuple(name_of(int(code)) for code in event.status),
        latencies_s=tuple(seconds(float(latency)) for latency in event.latency_s),
        rewards=tuple(map(finite, event.rewards)),
        gating=tuple(map(finite, event.gating)),
        best=event.best,
        head_version=event.head_version,
        stack_version=event.stack_version,
        stats_version=event.stats_version,
        degraded=event.degraded,
        available=event.available,
        trace_id=event.trace,
        messages=_messages(event) if texts else None,
        completions=transcript.completions if texts and transcript is not None else None,
    )


def _messages(event: ForwardEvent) -> tuple[ChatMessage, ...]:
    # Recorded text was valid when it was asked; it is shown as it is, without judging it again.
    return tuple(ChatMessage.model_construct(role=m.role, content=m.content) for m in event.messages)
