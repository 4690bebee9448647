"""A chain in memory, with the switches that tests need; it passes the same contract tests as the SDK's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coremesh.errors import ChainUnavailable
from coremesh.metagraph import Hyperparameters, Metagraph, Neuron, Nominator
from services.weights.chain import Commit, Sent, Standing, Tick

OWN = "5Validator"


class Killed(BaseException):
    """The end of a process, as its own code sees it: nothing more is run."""


@dataclass
class FakeChain:
    size: int = 4
    hyperparameters: Hyperparameters = field(default_factory=lambda: Hyperparameters(tempo=20, rate_limit=5))
    block: int = 100
    genesis: str = "0x" + 32 * "01"
    epoch_start: int = 100
    hotkeys: list[str] = field(default_factory=list)
    last_update: list[int] = field(default_factory=list)
    weights: dict[int, int] = field(default_factory=dict)
    commits: dict[int, dict[int, int]] = field(default_factory=dict)
    permit: bool = True
    permits: tuple[int, ...] = ()
    """Who else has one."""
    away: bool = False
    refuses: Sent | None = None
    """What the next set_weights gives, without any effect."""
    loses_answer: bool = False
    """The next set_weights takes effect, and its answer is lost."""
    killed: bool = False
    """The process is killed between the chain's taking the next weights and its answer."""
    reveals: bool = True
    hold_reveals: bool = False
    """Commits stay where they are, however old."""
    holds: bool = False
    """Weights wait in the node's pool, and their answer is lost."""
    pending: dict[int, int] | None = None
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hotkeys = self.hotkeys or [OWN, *(f"5Miner{uid}" for uid in range(1, self.size))]
        self.last_update = self.last_update or [0] * self.size

    def _reach(self, call: str) -> None:
        if self.away:
            raise ChainUnavailable("the chain is away")
        self.calls.append(call)

    def advance(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.block += 1
            if self.block - self.epoch_start >= self.hyperparameters.tempo:
                self.epoch_start = self.block
                if self.hold_reveals:
                    continue
                for _, values in sorted(self.commits.items()):
                    if self.reveals:
                        self.weights = values
                self.commits.clear()

    def include(self, vector: dict[int, int]) -> None:
        """Take a vector of ours into the newest block."""
        self.pending = None
        self.last_update[self.hotkeys.index(OWN)] = self.block
        if self.hyperparameters.commit_reveal:
            self.commits[self.block] = vector
        else:
            self.weights = vector

    async def tick(self) -> Tick:
        self._reach("tick")
        return Tick(self.block, self.epoch_start, tuple(self.last_update))

    async def metagraph(self) -> Metagraph:
        self._reach("metagraph")
        neurons = tuple(
            Neuron(
                uid=uid,
                hotkey=hotkey,
                coldkey=f"cold-{hotkey}",
                ip="127.1.0.1",
                port=8000 + uid if uid else 0,
                stake=5000.0 if uid == 0 else 0.0,
                permit=(uid == 0 and self.permit) or uid in self.permits,
                last_update=self.last_update[uid],
            )
            for uid, hotkey in enumerate(self.hotkeys)
        )
        return Metagraph(
            netuid=1,
            block=self.block,
            time_ms=0,
            neurons=neurons,
            hyperparameters=self.hyperparameters,
            nominators=(Nominator(coldkey="5Nominator", stake=10.0),),
            hotkey=OWN,
            genesis=self.genesis,
        )

    async def hotkeys_of(self, uids: tuple[int, ...]) -> tuple[str, ...]:
        self._reach("hotkeys")
        return tuple(self.hotkeys[uid] for uid in uids)

    async def standing(self) -> Standing:
        self._reach("standing")
        uid = self.hotkeys.index(OWN) if OWN in self.hotkeys else None
        return Standing(
            block=self.block,
            uid=uid,
            last_update=self.last_update[uid] if uid is not None else 0,
            weights=dict(self.weights),
            commits=tuple(Commit(block, 1) for block in self.commits),
            commit_reveal=self.hyperparameters.commit_reveal,
            permit=self.permit,
            owner=False,
            pending=self.pending is not None,
            version_key=self.hyperparameters.version_key,
        )

    async def set_weights(
        self,
        uids: tuple[int, ...],
        values: tuple[int, ...],
        version_key: int,
        least: int,
        may: Callable[[], bool],
    ) -> Sent:
        if self.away:
            return Sent(False, False, "chain_unavailable", "the chain is away")
        self.calls.append("set_weights")
        if not may():
            return Sent(False, True, "FencedOff", "nothing was signed")
        if self.refuses is not None:
            answer, self.refuses = self.refuses, None
            return answer
        uid = self.hotkeys.index(OWN) if OWN in self.hotkeys else None
        if uid is None:
            return Sent(False, True, "not_registered", "not registered")
        last = self.last_update[uid]
        if last and self.block - last < self.hyperparameters.rate_limit:
            return Sent(False, True, "rate_limited", "too soon")
        if len(uids) < min(len(self.hotkeys), self.hyperparameters.min_weights):
            return Sent(False, True, "invalid_argument", "too few")
        vector = dict(zip(uids, values, strict=True))
        if self.holds:
            self.pending = vector
            return Sent(False, False, "timeout", "the answer was lost")
        self.advance()
        self.include(vector)
        if self.killed:
            self.killed = False
            raise Killed
        if self.loses_answer:
            self.loses_answer = False
            return Sent(False, False, "unknown", "the transaction may already be on chain")
        return Sent(True, True)

    async def rebuild(self) -> None:
        self.calls.append("rebuild")

    async def close(self) -> None:
        self.calls.append("close")
