"""What the miners of one forward have said so far."""

from __future__ import annotations

from coremesh.wire.status import Status
from services.querier.ports import Reply


class Replies:
    """Columns aligned with the asked miners; a status is None until a miner's outcome is known."""

    def __init__(self, n: int, min_chars: int) -> None:
        self._min_chars = min_chars
        self.statuses: list[Status | None] = [None] * n
        self.completions = [""] * n
        self.latencies_s = [0.0] * n

    def take(self, reply: Reply) -> Status:
        """Note one reply; a completion that is too short to count is a failure."""
        status, text = reply.status, reply.completion
        if status == Status.OK and len(text.strip()) < self._min_chars:
            status = Status.SHORT if text.strip() else Status.EMPTY
        self.statuses[reply.index] = status
        self.completions[reply.index] = text if status in (Status.OK, Status.SHORT) else ""
        self.latencies_s[reply.index] = reply.latency_s
        return status

    @property
    def open(self) -> int:
        """Miners that have not answered yet."""
        return self.statuses.count(None)

    def good(self) -> list[int]:
        """Who succeeded, in gating order."""
        return [i for i, status in enumerate(self.statuses) if status == Status.OK]

    def counted(self) -> list[int]:
        """Whose outcome goes into the event: not those that we gave up on, or never asked, for reasons of our own."""
        return [i for i, status in enumerate(self.statuses) if status is not None and status.charged]

    def first_is_known(self) -> bool:
        """Whether no miner still open could come before the first good one in gating order."""
        for status in self.statuses:
            if status is None:
                return False
            if status == Status.OK:
                return True
        return False
