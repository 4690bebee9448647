"""What the miner client needs of a wire protocol, and nothing of how bytes travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class MinerRequest:
    """One prompt for the network. ``timeout_s`` is told to the miner; roles and messages have one length."""

    roles: tuple[str, ...]
    messages: tuple[str, ...]
    timeout_s: float

    def __post_init__(self) -> None:
        if len(self.roles) != len(self.messages):
            raise ValueError(f"{len(self.roles)} roles for {len(self.messages)} messages")


@dataclass(frozen=True, slots=True)
class RewardNotice:
    """What a miner learns of its completion: the rewards it earned for ``request``, final one first."""

    request: MinerRequest
    completion: str
    rewards: tuple[float, ...]


class BadAnswer(ValueError):
    """The body is not an answer of this protocol; the text is for the log."""


class DeltaReader(Protocol):
    """Reads a streamed answer piece by piece."""

    def feed(self, chunk: bytes) -> str:
        """The text that ``chunk`` adds, perhaps none. Raises BadAnswer."""
        ...

    def finish(self) -> str:
        """The text left at the end. Raises BadAnswer when the stream was cut off."""
        ...


class Call(Protocol):
    """One POST for many receivers: everything they share is computed once."""

    @property
    def path(self) -> str:
        """The request target."""
        ...

    @property
    def body(self) -> bytes:
        """The raw body, the same for every receiver."""
        ...

    def headers(self, receiver: str) -> bytes:
        """The protocol's own header lines for this receiver, each ended by CRLF, signed now.

        Called again for a retry, so each call has a fresh nonce. Host, content-length, connection and encodings
        are the client's.
        """
        ...

    def completion(self, content_type: str, body: bytes) -> str:
        """The text of a 200 answer; empty when it holds none. Raises BadAnswer.

        ``content_type`` is lowercase, without parameters.
        """
        ...

    def deltas(self, content_type: str) -> DeltaReader | None:
        """A reader when an answer of this content type is streamed, else None."""
        ...


class Adapter(Protocol):
    """A wire protocol, bound to our signer."""

    @property
    def name(self) -> str:
        """As in the setting ``querier.protocol``."""
        ...

    def forward(self, request: MinerRequest, *, stream: bool = False) -> Call:
        """Ask for a completion; ``stream``: as server-sent events where the miner can."""
        ...

    def backward(self, notice: RewardNotice) -> Call | None:
        """Tell a miner its rewards; None when the protocol has no such call."""
        ...
