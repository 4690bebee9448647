"""What the services say to each other and to the world over REST (pydantic; JSON)."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints

from coremesh.types import finite

Role = Literal["system", "user", "assistant"]
Content = Annotated[str, StringConstraints(min_length=1)]


class Contract(BaseModel):
    """Unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ChatMessage(Contract):
    """One turn: who says what."""

    role: Role = Field(description="system, user or assistant")
    content: Content = Field(description="text, not empty")


TOOK_HEADER = "coremesh-took"


def took(seconds: float) -> dict[str, str]:
    """The header by which a service says how long it worked on an answer, waiting for its models included."""
    return {TOOK_HEADER: f"{seconds:.6f}"}


class Timed(Contract):
    """An answer with what came of TOOK_HEADER beside it; it is no part of the answer."""

    _took_s: float = PrivateAttr(0.0)

    @property
    def took_s(self) -> float:
        """Seconds that the service itself says it took; 0 where it does not."""
        return self._took_s

    def after(self, header: str) -> None:
        """Note what the header says. What is no number counts as nothing."""
        with suppress(ValueError):
            self._took_s = max(0.0, finite(float(header)) or 0.0)


Messages = Annotated[tuple[ChatMessage, ...], Field(min_length=1)]


# gating


class ScoreRequest(Contract):
    """Whom to ask for a prompt? ``text`` or ``messages``."""

    text: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    uids: tuple[int, ...] | None = Field(
        None, max_length=65536, description="who can be asked; none: all that serve"
    )
    k: int | Literal["auto"] | None = Field(None, description="how many to choose; none: no choice is made")
    random: bool = Field(False, description="draw a training sample instead of the best")
    deadline_s: float | None = Field(None, gt=0, le=600, description="the caller's deadline for miners")


class ScoreResponse(Timed):
    """Expected rewards, aligned with ``uids``; ``chosen`` are uids, best first."""

    uids: tuple[int, ...]
    scores: tuple[float, ...]
    chosen: tuple[int, ...] = ()
    propensities: tuple[float, ...] = Field(
        (), description="aligned with chosen: how likely each was to be chosen"
    )
    head_version: int = Field(description="0 while nothing was learnt")
    block: int = Field(description="of the metagraph used")


class HeadResponse(Contract):
    """What the gating head is and where its fold stands."""

    rule: str
    encoder: str
    version: int
    last_id: str
    steps: int
    hotkeys: int
    features: int
    leading: bool
    leader: str | None


# reward


class RewardRequest(Contract):
    """Completions of one prompt to score."""

    messages: Messages
    completions: tuple[str, ...] = Field(min_length=1, max_length=4096)
    kind: Literal["question", "answer", "inference", "forward"] = "answer"
    difference: bool = Field(default=False, description="score what the completion adds to the prompt")
    deadline_s: float | None = Field(
        default=None, gt=0, le=600, description="work is dropped when the answer would come later than this"
    )


class RewardResponse(Timed):
    """Aligned with the completions. ``raw`` and ``normalised`` per function, ``masks`` per mask in [0, 1].

    All of it is finite. The event records ``raw`` under the functions' names, ``masks`` under ``mask:<name>``
    and ``extra`` under its own names.
    """

    rewards: tuple[float, ...]
    raw: dict[str, tuple[float, ...]]
    normalised: dict[str, tuple[float, ...]]
    masks: dict[str, tuple[float, ...]]
    stack_version: str
    stats_version: int = Field(description="events behind the running statistics; 0: none are used")
    extra: dict[str, tuple[float, ...]] = Field(
        default={},
        description="more to record: `normalised:NAME` where it is not the raw value, `sign:MASK:I` (what the "
        "stack learns from), `shadow:VERSION:NAME` (what a shadow stack says, which never counts)",
    )


class FilterRequest(Contract):
    """Texts to judge."""

    texts: tuple[str, ...] = Field(min_length=1, max_length=4096)


class FilterResponse(Timed):
    """Aligned with the texts. ``active`` is false when no safety filter is configured: then all are safe."""

    safe: tuple[bool, ...]
    scores: tuple[float, ...]
    active: bool


class StackResponse(Contract):
    """The reward stack in force."""

    version: str
    functions: dict[str, float] = Field(description="weight per reward function")
    masks: tuple[str, ...]
    models: dict[str, str] = Field(description="identity per function or mask that has a model")
    stats_version: int
    safety: bool


# querier


class InferenceRequest(Contract):
    """Ask the network."""

    messages: Messages
    timeout: float | None = Field(
        None, description="seconds that miners get; default: the operator's setting"
    )
    top_k: int | Literal["auto"] | None = Field(
        None, description="miners to ask; default: the operator's setting"
    )
    use_reward_model: bool | None = Field(
        None, description="choose by reward, or the first good in gating order"
    )
    return_all: bool = Field(False, description="give every completion")
    wait_for: int | None = Field(None, ge=1, description="answer once so many completions have arrived")
    private: bool = Field(False, description="record no text of this request")


class CompletionItem(Contract):
    """One miner's answer."""

    uid: int
    hotkey: str
    completion: str
    reward: float | None
    status: str
    latency_s: float


class Timings(Contract):
    """Seconds spent in each stage."""

    filter: float = 0.0
    gating: float = 0.0
    query: float = 0.0
    reward: float = 0.0
    total: float = 0.0
    models: float = Field(
        0.0,
        description="of filter, gating and reward: what those services say they took, without the way to them",
    )


class InferenceResponse(Contract):
    """The best completion."""

    completion: str
    uid: int
    hotkey: str
    reward: float | None
    completions: tuple[CompletionItem, ...] | None = None
    event_id: str
    timings: Timings
    degraded: tuple[str, ...] = Field((), description="parts of the mesh that were missing for this answer")


class ForwardRequest(Contract):
    """One query of the network, with the original validator's parameters. Operators only."""

    roles: tuple[Role, ...] = Field(min_length=1)
    messages: tuple[Content, ...] = Field(min_length=1)
    topk: int | None = Field(None, description="miners to ask; none or -1: all available")
    random_sample_uids: bool = False
    train_gating_model: bool = False
    train_network: bool = False
    timeout: float | None = None
    kind: Literal["question", "answer", "forward"] = "forward"
    difference: bool = False


class ForwardResponse(Contract):
    """The event of a forward, aligned with ``uids``."""

    event_id: str
    completion: str
    uid: int
    hotkey: str
    reward: float | None
    uids: tuple[int, ...]
    hotkeys: tuple[str, ...]
    completions: tuple[str, ...]
    statuses: tuple[str, ...]
    rewards: tuple[float | None, ...]
    latencies_s: tuple[float, ...]
    block: int
    timings: Timings
    degraded: tuple[str, ...] = ()


class AxonResponse(Contract):
    """What a querier's axon answers a hotkey, as a miner would: with one completion."""

    completion: str
    uid: int
    hotkey: str
    event_id: str
    degraded: tuple[str, ...] = ()


class NeuronRow(Contract):
    """One uid of the metagraph. Stake in TAO."""

    uid: int
    hotkey: str
    coldkey: str
    ip: str
    port: int
    stake: float
    permit: bool
    validator: bool = Field(description="permit and stake over the limit: never asked, scored 0")
    available: bool = Field(description="whether it can be asked")
    last_update: int
    registered_at: int


class MetagraphResponse(Contract):
    """The metagraph snapshot in use."""

    netuid: int
    block: int
    time_ms: int
    size: int
    hotkey: str = Field(description="our own")
    vpermit_tao_limit: float
    neurons: tuple[NeuronRow, ...]


class MinerRow(Contract):
    """How one miner did since this process started."""

    uid: int
    hotkey: str
    available: bool
    asked: int
    succeeded: int
    last_status: str | None
    latency_s: float | None = Field(description="moving average over its successes")


class MinersResponse(Contract):
    """Every uid, in order, as this querier has met it."""

    block: int
    available: int
    miners: tuple[MinerRow, ...]


class HistoryRow(Contract):
    """One forward event, aligned with ``uids``. Texts are given to operators only."""

    event_id: str
    stream_id: str
    time_ms: int
    block: int
    kind: str
    flags: tuple[str, ...]
    uids: tuple[int, ...]
    hotkeys: tuple[str, ...] = Field(description="empty where a hotkey is not known any more")
    statuses: tuple[str, ...]
    latencies_s: tuple[float, ...]
    rewards: tuple[float | None, ...]
    gating: tuple[float | None, ...]
    best: int = Field(description="index into uids, -1 for none")
    head_version: int
    stack_version: str
    stats_version: int
    degraded: tuple[str, ...]
    available: int
    trace_id: str = Field("", description="the trace that was taken of it, where traces are taken")
    messages: tuple[ChatMessage, ...] | None = None
    completions: tuple[str, ...] | None = None


class HistoryResponse(Contract):
    """The newest forwards, newest first."""

    events: tuple[HistoryRow, ...]
    last_id: str
    waiting: int = Field(description="events on this querier's disk that Redis does not have yet")


class TrainingResponse(Contract):
    """The training loop, as this instance sees it."""

    leading: bool = Field(description="whether this instance trains")
    leader: str | None
    steps: int = Field(description="steps done by this instance")


# weights


class ScoreRow(Contract):
    """One uid's standing."""

    uid: int
    hotkey: str
    score: float
    successes: int
    failures: int
    excluded: bool
    reset_block: int


class ScoresResponse(Contract):
    """The moving scores, in uid order, with the place in the history that they stand for."""

    rule: str
    alpha: float
    events: int
    last_id: str
    version: int
    rows: tuple[ScoreRow, ...]


class WeightsResponse(Contract):
    """What would be set now, and what the chain holds."""

    uids: tuple[int, ...]
    weights: tuple[float, ...]
    values: tuple[int, ...] = Field(description="u16, as the chain stores them")
    on_chain: dict[int, int] = Field(description="uid to u16, as read back last")
    on_chain_block: int
    last_id: str
    held: str | None = Field(None, description="why the next submission is held, if it is")


class ScoreStanding(Contract):
    """What the fold holds of one uid at one place of the history."""

    moving: float = Field(description="the moving value that the rule keeps")
    score: float = Field(description="what the rule reads from it")
    successes: int
    failures: int
    hotkey: str = Field(description="digest of the hotkey scored, 16 hex digits; zeros: none yet")
    former: tuple[str, ...] = Field(description="digests of former hotkeys, whose late events do not count")
    excluded: bool = Field(description="a validator over the stake limit: nothing counts")


class ExplainedEvent(Contract):
    """A scored event in which the uid was asked. ``rewards`` are of everybody asked, in the event's order."""

    what: Literal["event"] = "event"
    event_id: str
    stream_id: str
    time_ms: int
    block: int
    kind: str
    asked: int = Field(description="how many were asked")
    places: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, max_length=65536, description="indices of the uid in rewards, nearly always one"
    )
    hotkeys: tuple[str, ...] = Field(description="digests of the hotkeys asked, aligned with places")
    rewards: tuple[float | None, ...] = Field(
        max_length=65536, description="none: failed, which counts as a target of 0"
    )
    reward: float | None = Field(description="the uid's, in its first place")
    status: str
    share: float | None = Field(description="of the softmax, as reward; none: the rule has no shares")
    counted: bool
    note: str = Field(
        default="", description="why it did not count, or that the uid started again from 0 with it"
    )
    restarted: bool = Field(default=False, description="it showed a new hotkey before the metagraph did")
    before: ScoreStanding | None = Field(description="none: what was before is not in the history any more")
    after: ScoreStanding | None


class ExplainedReset(Contract):
    """A metagraph event after which the uid stood at 0."""

    what: Literal["reset"] = "reset"
    event_id: str
    stream_id: str
    time_ms: int
    block: int
    old_hotkey: str
    new_hotkey: str
    reason: str
    before: ScoreStanding
    after: ScoreStanding


class Explanation(Contract):
    """How one miner's score came about, recomputed from the history."""

    format: Literal["coremesh explanation/1"] = "coremesh explanation/1"
    netuid: int
    validator: str = Field(description="hotkey of the validator that gives the explanation; empty: none")
    uid: int
    hotkey: str = Field(description="empty: not known")
    rule: str = Field(description="name and parameters")
    standing: ScoreStanding = Field(description="as the validator serves it")
    rank: int = Field(description="1 is the best of all uids; equal scores rank by uid")
    weight: float | None = Field(description="share of what would be set now; none: no metagraph is known")
    excluded: bool = Field(description="a validator over the stake limit: scored 0")
    reset_block: int = Field(description="block at which the uid last started from 0")
    events: int = Field(description="scored events behind all scores")
    last_id: str = Field(description="the last event behind them")
    since: str = Field(description="where the recomputation started; 0-0: at the start of the history")
    trimmed: str = Field(description="the newest event trimmed away; 0-0: none, the history is whole")
    agrees: bool = Field(description="the recomputed scores of all uids equal the served ones bit for bit")
    note: str
    steps: tuple[Annotated[ExplainedEvent | ExplainedReset, Field(discriminator="what")], ...] = Field(
        max_length=2000, description="the last ones, oldest first"
    )


class SignedExplanation(Contract):
    """An explanation with the validator's signature over its canonical JSON."""

    explanation: Explanation
    signer: str = Field(default="", description="ss58 address of the hotkey; empty: not signed")
    signature: str = Field(default="", description="sr25519, hexadecimal; empty: not signed")
