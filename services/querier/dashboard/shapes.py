"""What the dashboard's endpoints answer. Times in ms since the epoch, latencies in seconds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coremesh.contracts import Contract, Explanation


class ServiceState(Contract):
    """One part of the mesh."""

    name: str
    state: Literal["up", "degraded", "away"]
    version: str
    problems: tuple[str, ...]
    facts: dict[str, str | int | float | bool | None] = Field(description="what is worth knowing of it")
    lag_events: int | None = Field(default=None, description="events that its fold has not folded yet")
    lag_s: float | None = Field(default=None, description="age of the first of them against the newest event")


class ViewerState(Contract):
    """What this viewer may do."""

    key: Literal["none", "accepted", "refused"]
    numbers: bool = Field(description="sees scores, weights and rewards")
    texts: bool = Field(description="sees prompts and completions")
    asks: bool = Field(description="may ask the network")


class OverviewResponse(Contract):
    """The mesh at a glance."""

    time_ms: int
    version: str
    netuid: int
    block: int
    metagraph_age_s: float | None
    size: int
    available: int
    hotkey: str
    commit_reveal: bool
    viewer: ViewerState
    services: tuple[ServiceState, ...]
    events: int = Field(description="events kept in this querier's memory")
    last_id: str
    per_minute: float | None = Field(description="forwards a minute of late")
    waiting: int = Field(description="events on this querier's disk that Redis does not have yet")
    scored_events: int | None
    held: str | None = Field(description="why weights that were due are held, if they are")
    top_k: int = Field(description="miners asked for a user's prompt, where the user does not say")


class LeaderRow(Contract):
    """One uid of the leaderboard. Shares, latency and rewards are over its last requests, at most 240."""

    uid: int
    hotkey: str
    role: Literal["miner", "validator", "self", "silent"] = Field(
        description="silent: publishes no axon, so it cannot be asked"
    )
    score: float | None
    weight: float | None = Field(description="share of the whole that would be set now")
    on_chain: float | None = Field(description="share of the whole that the chain holds")
    asked: int
    success: float | None = Field(description="share of successes")
    latency_s: float | None = Field(description="median over its successes")
    reward: float | None = Field(description="mean over its rewarded completions")
    rewards: tuple[float | None, ...] = Field(description="the newest last; none for a failure")
    last_status: str | None
    last_ms: int | None


class LeaderboardResponse(Contract):
    """Every uid, in order."""

    block: int
    stale: str | None = Field(description="why scores and weights may be old")
    stale_s: float
    rows: tuple[LeaderRow, ...]


class MinerSample(Contract):
    """One request to a miner."""

    time_ms: int
    status: str
    latency_s: float
    reward: float | None


class MinerPage(Contract):
    """One miner in full."""

    row: LeaderRow
    rank: int | None = Field(description="by score, from 1; equal scores rank by uid")
    coldkey: str
    stake: float
    registered_at: int
    last_update: int
    successes: int | None = Field(description="since its score began")
    failures: int | None
    reset_block: int | None
    statuses: dict[str, int] = Field(description="how its last requests ended")
    samples: tuple[MinerSample, ...] = Field(description="oldest first")
    events: tuple[MinerEvent, ...] = Field(description="the newest it was in, newest first")
    stale: str | None


class ExplanationResponse(Contract):
    """Why a uid has its score."""

    available: bool
    reason: str | None = Field(description="why there is no explanation")
    explanation: Explanation | None


class EventRow(Contract):
    """One event of the live list. For a change of the metagraph, ``changes`` says how many uids changed hands."""

    stream_id: str
    event_id: str
    time_ms: int
    block: int
    kind: str
    flags: tuple[str, ...]
    asked: int
    succeeded: int
    best_uid: int | None
    best_reward: float | None
    mean_reward: float | None
    slowest_s: float | None
    degraded: tuple[str, ...]
    changes: int | None = None


class MinerEvent(EventRow):
    """An event in which a miner was asked, with what became of that."""

    own_status: str
    own_reward: float | None


class EventsResponse(Contract):
    """The newest events after a place, newest first."""

    events: tuple[EventRow, ...]
    last_id: str
    stale: str | None = Field(description="why there may be newer ones")


class EventMiner(Contract):
    """What became of one asked miner. ``completion`` is cut; ``chars`` is how long it was."""

    uid: int
    hotkey: str
    status: str
    latency_s: float
    reward: float | None
    gating: float | None
    parts: dict[str, float | None] = Field(description="value per reward function and mask")
    completion: str | None = None
    chars: int | None = None


class EventText(Contract):
    """One message of the prompt, cut."""

    role: str
    content: str
    chars: int


class EventResponse(Contract):
    """One forward in full; texts for operators only."""

    event: EventRow
    stack_version: str
    head_version: int
    available: int
    texts: bool = Field(description="whether this viewer may see texts")
    prompt: tuple[EventText, ...] | None
    miners: tuple[EventMiner, ...]


class SubmissionSummary(Contract):
    """One attempt to set weights, by its newest record."""

    id: str
    time_ms: int
    block: int
    landed_block: int
    result: str
    reason: str
    miners: int = Field(description="uids with a weight above 0")
    top: tuple[int, ...] = Field(description="the uids with the greatest weights")
    commit_reveal: bool
    rule: str


class SubmissionList(Contract):
    """Attempts, newest first."""

    submissions: tuple[SubmissionSummary, ...]
    held: str | None = Field(description="why weights would be held if they were due now")
    stale: str | None
    stale_s: float


class LearningPoint(Contract):
    """Means over some events; a failure counts 0."""

    time_ms: int
    first: float = Field(description="reward of the miner that gating ranked first among the asked")
    mean: float = Field(description="reward of a miner drawn at random, estimated")
    best: float = Field(description="reward of the best of the asked")
    head_version: int
    events: int


class LearningResponse(Contract):
    """What gating has learnt."""

    points: tuple[LearningPoint, ...]
    events: int
    lift: float | None = Field(description="first over mean in the newest quarter, as a ratio")
    rule: str | None
    version: int | None
    steps: int | None
    hotkeys: int | None
    features: int | None
    stale: str | None
