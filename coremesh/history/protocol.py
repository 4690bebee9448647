"""What a history is, whatever keeps it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from coremesh.events import Event, ForwardEvent, MetagraphEvent, Transcript, decode
from coremesh.history.keys import HOTKEY_MARGIN
from coremesh.metagraph import Metagraph
from coremesh.types import StreamId

if TYPE_CHECKING:
    from coremesh.history.page import Page


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event at its place in the history."""

    stream_id: StreamId
    event: Event
    """Or what another decoder made of it: see History.read."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A fold's state and the last event in it, written together or not at all."""

    last_id: StreamId
    state: bytes
    version: int = 0
    """Grows with every save."""
    format: str = ""
    """Names the fold's rule and layout, so that state of another kind is never loaded blindly."""
    time_ms: int = 0


class Lease(msgspec.Struct, frozen=True):
    """Leadership of one role. ``token`` grows with every change of leader; ``server`` names the process that gave it,
    where the history has such."""

    role: str
    holder: str
    token: int
    server: str = ""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to set weights, and what became of it."""

    id: str
    """Chosen by the submitter; later records with the same id say more about the same attempt."""
    time_ms: int
    block: int
    netuid: int
    hotkey: str
    uids: tuple[int, ...]
    weights: tuple[float, ...]
    values: tuple[int, ...]
    """u16 as the chain stores them (normalised so that the largest is 65535)."""
    last_id: str
    """The last event in the scores behind the vector: a replay up to here gives it again."""
    result: str
    """``held`` ``dry_run`` ``sent`` ``landed`` ``committed`` ``revealed`` ``superseded`` ``failed``.

    ``sent`` becomes ``landed``, ``committed`` or ``failed``; ``committed`` becomes ``revealed``, ``superseded`` or
    ``failed``. The last two say why.
    """
    reason: str = ""
    commit_reveal: bool = False
    landed_block: int = 0
    rule: str = ""
    version_key: int = 0


class SubmissionEntry(msgspec.Struct, frozen=True):
    """A submission record at its place."""

    stream_id: StreamId
    submission: Submission


class History(Protocol):
    """The truth. Every method raises HistoryUnavailable when the store does not answer within its deadline."""

    async def append(
        self, event: ForwardEvent, transcript: Transcript | None, hotkeys: list[str]
    ) -> StreamId:
        """Append once: an event id that is already there gives its place again and changes nothing.

        ``hotkeys`` are the ss58 addresses behind the event's digests, kept so that there is a way back.
        """
        ...

    async def read(
        self,
        after: StreamId,
        count: int,
        block: timedelta | None = None,
        decode: Callable[[bytes], Any] = decode,
    ) -> list[Entry]:
        """Up to ``count`` entries after a place, oldest first; with ``block`` wait that long for the first.

        ``decode`` makes events of their wire form: a fold that needs a part of each reads faster with its own.
        """
        ...

    async def sweep(self, after: StreamId, most: int, page: Page, take: Callable[[Page], None]) -> int | None:
        """Give the entries after a place to ``take``, oldest first, until there are no more or ``most`` were given: how
        many, a few more than ``most`` perhaps.

        They are in ``page``, a piece of the history at a time; after a call of ``take`` they no longer are. A taker
        that it sets (page.Taker) has what comes from then on until the end of the sweep, and ``take`` what that leaves,
        from ``page.first`` on. ``take`` is called in a thread, which goes on for a while when the caller is cancelled.
        None where this history has no pages, or not now: then ``read`` gets the entries. Raises what ``take`` does.
        """
        ...

    async def tail(self, count: int) -> list[Entry]:
        """The newest ``count`` entries, newest first."""
        ...

    async def find(self, event_id: str) -> Entry | None:
        """The entry of an event id, if it is still within the retention of ids and events."""
        ...

    async def last_id(self) -> StreamId:
        """The place of the newest event, ORIGIN when there is none."""
        ...

    async def length(self) -> int:
        """Events kept."""
        ...

    async def trimmed(self) -> StreamId:
        """The newest place that was trimmed away: a fold standing before it has a gap. ORIGIN when none."""
        ...

    async def trim(self, keep: int, folds: tuple[str, ...]) -> int:
        """Drop the oldest events beyond ``keep``, never past the checkpoint of any of ``folds`` (one without a
        checkpoint holds everything back). Gives the number dropped."""
        ...

    async def transcript(self, event_id: str) -> Transcript | None:
        """The texts of an event, while they are retained."""
        ...

    async def resolve(self, digests: list[int]) -> dict[int, str]:
        """Hotkeys behind digests; unknown ones are left out."""
        ...

    async def forget_hotkeys(self, keep: Collection[int], margin: timedelta = HOTKEY_MARGIN) -> int:
        """Forget the hotkeys that no event needs any more: last sent ``margin`` before the oldest event and before now.

        Those with digests in ``keep`` stay. Gives the number forgotten.
        """
        ...

    async def metagraph(self) -> Metagraph | None:
        """The newest published snapshot."""
        ...

    async def publish(
        self, metagraph: Metagraph, event: MetagraphEvent | None, lease: Lease
    ) -> StreamId | None:
        """Publish a snapshot and append its event in one transaction. Raises LeaseLost when fenced off."""
        ...

    async def load(self, fold: str) -> Checkpoint | None:
        """The newest checkpoint of a fold."""
        ...

    async def version(self, fold: str) -> int:
        """The version of a fold's newest checkpoint, 0 when there is none: cheap to ask often."""
        ...

    async def save(self, fold: str, checkpoint: Checkpoint, lease: Lease, expected: StreamId) -> Checkpoint:
        """Replace a checkpoint that stands at ``expected`` (ORIGIN: none). Gives it with its new version.

        Raises LeaseLost when a newer leader exists, the checkpoint has moved, or the server is another than when the
        lease was taken: it may lack events that the state counts.
        """
        ...

    async def acquire(self, role: str, holder: str, ttl: timedelta) -> Lease | None:
        """Take a free lease, or renew one's own; None while another holds it."""
        ...

    async def renew(self, lease: Lease, ttl: timedelta) -> bool:
        """Keep a lease; False when it is lost."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give a lease back, if it is still ours."""
        ...

    async def leader(self, role: str) -> str | None:
        """Who leads."""
        ...

    async def submit(self, submission: Submission, lease: Lease) -> StreamId:
        """Record an attempt to set weights. Raises LeaseLost when fenced off."""
        ...

    async def submissions(self, count: int) -> list[SubmissionEntry]:
        """The newest ``count`` records, newest first."""
        ...

    async def ping(self) -> None:
        """Return when the store answers. Raises HistoryUnavailable."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...
