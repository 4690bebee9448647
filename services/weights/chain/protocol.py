"""The chain as the weights service sees it. Every read is of one block; every call ends within its deadline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from coremesh.metagraph import Metagraph

ERA_BLOCKS = 16
"""How long an extrinsic of ours is valid: what was signed and not sent, by a process that was stopped for a while, is
refused by the chain after so many blocks."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What is looked at on every block."""

    block: int
    epoch_start: int
    """The block at which the subnet's last epoch ran."""
    last_update: tuple[int, ...]
    """LastUpdate of every uid: the block of its last weights, commit or registration."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A sealed vector of ours that waits for its reveal."""

    block: int
    reveal_round: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What the chain holds of us."""

    block: int
    uid: int | None
    """None: not registered."""
    last_update: int
    weights: Mapping[int, int]
    """uid to u16, as stored."""
    commits: tuple[Commit, ...]
    commit_reveal: bool
    permit: bool
    owner: bool
    """The subnet's owner needs no permit."""
    pending: bool = False
    """An extrinsic of ours waits in the node's pool."""
    version_key: int = 0
    """What the subnet asks for; 0 for none."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of handing weights to the chain. Only reading back tells whether they are there."""

    accepted: bool
    certain: bool
    """False: the answer was lost, and the extrinsic may or may not be on its way."""
    code: str = ""
    """The SDK's error code, or the class of the error."""
    message: str = ""


class Chain(Protocol):
    """Reads and the one write. Raises ChainUnavailable when the chain does not answer in time."""

    async def tick(self) -> Tick:
        """The newest block and what may have moved with it."""
        ...

    async def metagraph(self) -> Metagraph:
        """The subnet with its hyperparameters and our nominators, at the newest block."""
        ...

    async def hotkeys_of(self, uids: tuple[int, ...]) -> tuple[str, ...]:
        """Who holds these uids, at the newest block."""
        ...

    async def standing(self) -> Standing:
        """What the chain holds of us, at the newest block."""
        ...

    async def set_weights(
        self,
        uids: tuple[int, ...],
        values: tuple[int, ...],
        version_key: int,
        least: int,
        may: Callable[[], bool],
    ) -> Sent:
        """Set or commit weights, as the subnet demands. ``least``: the number of weights the chain asks for.

        ``may`` is asked last of all, before anything is signed; a signature is worth nothing ERA_BLOCKS later.
        Never raises for what the chain or the node says: that is in the result.
        """
        ...

    async def rebuild(self) -> None:
        """Give the connection up and take the next endpoint: the node answers but makes no progress."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...
