"""What came of asking one miner. The values are recorded in events: never renumber, only add."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Outcome per queried uid, a u8 in the event."""

    OK = 0
    """A completion, long enough."""
    TIMEOUT = 1
    """Not connected, or not answered in full, within the time from its own send."""
    REFUSED = 2
    """No connection, TLS refused, or closed before the answer was complete."""
    BAD_STATUS = 3
    """Any HTTP status but 200, redirects included."""
    TOO_BIG = 4
    """Over a cap: header bytes or count, body bytes, characters."""
    MALFORMED = 5
    """Not HTTP, an encoding or content type not asked for, bad JSON or the wrong shape."""
    BLOCKED_ADDRESS = 6
    """Not a public unicast address, or our own hotkey; nothing was sent."""
    EMPTY = 7
    """No completion, or only white space."""
    SHORT = 8
    """A completion of fewer characters than count as an answer."""
    UNSAFE = 9
    """Dropped by the safety filter; set by the querier, not by the miner client."""
    BREAKER_OPEN = 10
    """Not asked: it failed too often of late."""
    NOT_SENT = 11
    """Not asked for a reason of ours (socket cap, deadline or shutdown before its turn)."""

    @property
    def charged(self) -> bool:
        """Whether the miner answers for it: a failure of ours is not its failure."""
        return self is not Status.NOT_SENT


def name_of(code: int) -> str:
    """A recorded status by its name; of one that this version does not know, its number."""
    try:
        return Status(code).name.lower()
    except ValueError:
        return str(code)
