"""One signed request to one miner, from its own send to its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from coremesh.wire.adapters import BadAnswer, Call, DeltaReader
from coremesh.wire.status import Status
from services.querier.miners.addresses import refusal
from services.querier.miners.answers import MinerAnswer, brief, spoken, tidy
from services.querier.miners.breaker import Breakers
from services.querier.miners.connection import Connection
from services.querier.miners.limits import MinerLimits, Target
from services.querier.miners.pool import Pool

NEVER = float("inf")


class Owner(Protocol):
    """Whoever asked."""

    def on_done(self, index: int, answer: MinerAnswer) -> None:
        """The exchange at ``index`` is over."""
        ...


class Context:
    """What all exchanges of a client share."""

    __slots__ = ("breakers", "limits", "loop", "own_hotkey", "pool")

    def __init__(self, limits: MinerLimits, own_hotkey: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.own_hotkey = own_hotkey
        self.pool = Pool(limits)
        self.breakers = Breakers(
            failures=limits.breaker_failures, base_s=limits.breaker_base_s, max_s=limits.breaker_max_s
        )


def head_of(call: Call) -> bytes:
    """The lines that the requests of one call have in common; the host's own line follows."""
    return (
        f"POST {call.path} HTTP/1.1\r\ncontent-length: {len(call.body)}\r\naccept-encoding: identity\r\n"
    ).encode()


class Exchange:
    """Asks ``target`` once, or twice when a kept connection turns out to be dead.

    The clock runs from the request's own send: the time that earlier requests of the batch took to sign, or
    that was spent waiting for a socket of ours, is not the miner's. It runs on while a dead connection is replaced:
    a miner has read the question by then, and would otherwise think for nothing by closing before it answers.
    ``background`` exchanges expect no text and do not move the breaker.
    """

    __slots__ = (
        "_background",
        "_call",
        "_chunks",
        "_connecting",
        "_connection",
        "_content_type",
        "_context",
        "_deadline",
        "_head",
        "_on_delta",
        "_owner",
        "_pieces",
        "_reader",
        "_retried",
        "_sent_at",
        "_timeout_s",
        "due",
        "finished",
        "index",
        "target",
    )

    def __init__(
        self,
        context: Context,
        owner: Owner,
        index: int,
        target: Target,
        call: Call,
        head: bytes,
        timeout_s: float,
        deadline: float,
        *,
        on_delta: Callable[[str], None] | None = None,
        background: bool = False,
    ) -> None:
        self.index = index
        self.target = target
        self.finished = False
        self.due = deadline
        """When this exchange times out, in ``time.monotonic()``: the deadline until it is sent, then its own time."""
        self._context = context
        self._owner = owner
        self._call = call
        self._head = head
        self._timeout_s = timeout_s
        self._deadline = deadline
        self._on_delta = on_delta
        self._background = background
        self._retried = False
        self._sent_at = NEVER
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._content_type = ""
        self._chunks: list[bytes] = []
        self._reader: DeltaReader | None = None
        self._pieces: list[str] = []

    def start(self) -> None:
        """Send, or begin to connect; may finish at once."""
        context, target = self._context, self.target
        if target.hotkey == context.own_hotkey:
            self._finish(Status.BLOCKED_ADDRESS, "our own hotkey")
        elif reason := refusal(target.host, context.limits.allow_loopback, context.limits.networks):
            self._finish(Status.BLOCKED_ADDRESS, reason)
        elif not 0 < target.port < 65536:
            self._finish(Status.BLOCKED_ADDRESS, "not a port")
        elif not context.breakers.allows(target.hotkey, monotonic()):
            self._finish(Status.BREAKER_OPEN, "")
        elif (connection := context.pool.take(target)) is not None:
            self.on_connection(connection)
        else:
            context.pool.connect(self)

    @property
    def sent(self) -> bool:
        """Whether the miner's clock runs."""
        return self._sent_at != NEVER

    # -- from the pool ---------------------------------------------------------------------------------------

    def on_connecting(self, task: asyncio.Task[None]) -> None:
        """The pool bounds the time that connecting may take."""
        self._connecting = task

    def on_connection(self, connection: Connection) -> None:
        """Sign now, send now, start the clock."""
        self._connecting = None
        self._connection = connection
        call = self._call
        try:
            parts = (self._head, connection.host_line, call.headers(self.target.hotkey), b"\r\n", call.body)
            request = b"".join(parts)
        except Exception as error:
            self._finish(Status.NOT_SENT, f"could not be signed: {type(error).__name__}")
            raise
        if not self.sent:
            self._sent_at = monotonic()
            self.due = min(self._sent_at + self._timeout_s, self._deadline)
        connection.send(request, self)

    def on_no_connection(self, status: Status, detail: str) -> None:
        """Connecting has failed."""
        self._connecting = None
        self._finish(status, detail)

    # -- from the connection ---------------------------------------------------------------------------------

    def on_head(self, content_type: str) -> None:
        """A 200 begins."""
        self._content_type = content_type
        if not self._background:
            # Also where nobody listens: a long stream read as it comes holds up nobody else.
            self._reader = self._call.deltas(content_type)

    def on_body(self, chunk: bytes) -> None:
        """Keep the chunk, or hand its text on where somebody listens."""
        if self._reader is None:
            self._chunks.append(chunk)
            return
        try:
            self._hear(self._reader.feed(chunk))
        except BadAnswer as error:
            self._finish(Status.MALFORMED, str(error))

    def on_answer(self) -> None:
        """Read the completion."""
        self._connection = None
        if self.finished:
            return
        if self._background:
            self._finish(Status.OK, "")
            return
        try:
            if self._reader is not None:
                self._hear(self._reader.finish())
                text = "".join(self._pieces)
            else:
                text = self._call.completion(self._content_type, b"".join(self._chunks))
                # Before it is cleaned: a megabyte of control characters would take long to clean.
                if len(text) > self._context.limits.max_completion_chars:
                    self._finish(Status.TOO_BIG, f"{len(text)} characters")
                    return
                text = tidy(text)
        except BadAnswer as error:
            self._finish(Status.MALFORMED, str(error))
            return
        if self._on_delta is not None and self._reader is None and text:
            self._on_delta(text)
        limits = self._context.limits
        stripped = text.strip()
        if not stripped:
            self._finish(Status.EMPTY, "")
        elif len(stripped) > limits.max_completion_chars:
            self._finish(Status.TOO_BIG, f"{len(stripped)} characters")
        elif spoken(stripped) < limits.min_completion_chars:
            self._finish(Status.SHORT, "", stripped)
        else:
            self._finish(Status.OK, "", stripped)

    def on_failure(self, status: Status, detail: str, *, untouched: bool) -> None:
        """Try again on a fresh connection, with a fresh nonce, where the kept one was dead before it answered."""
        self._connection = None
        if self.finished:
            return
        if untouched and not self._retried:
            self._retried = True
            self._context.pool.connect(self)
        else:
            self._finish(status, detail)

    def _hear(self, delta: str) -> None:
        text = tidy(delta)
        if text:
            self._pieces.append(text)
            if self._on_delta is not None:
                self._on_delta(text)

    # -- ends ------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Time is up: the miner's when the request was sent or was on its way, ours while it waited for a socket."""
        waiting = self._connection is None and self._connecting is None
        self._finish(Status.NOT_SENT if waiting else Status.TIMEOUT, "no socket was free" if waiting else "")

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        if not self.finished:
            self._finish(Status.NOT_SENT, "cancelled")

    def _finish(self, status: Status, detail: str, completion: str = "") -> None:
        if self.finished:
            return
        self.finished = True
        context = self._context
        now = monotonic()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if not self._background:
            if status in _ALIVE:
                context.breakers.succeeded(self.target.hotkey)
            elif status in _NOT_ASKED:
                context.breakers.abandoned(self.target.hotkey)
            elif status is not Status.BREAKER_OPEN:
                context.breakers.failed(self.target.hotkey, now)
        latency_s = now - self._sent_at if self.sent else float("nan")
        self._chunks = []
        self._owner.on_done(
            self.index,
            MinerAnswer(
                self.target.uid,
                self.target.hotkey,
                status,
                completion,
                latency_s,
                brief(detail) if detail else "",
            ),
        )


_NOT_ASKED = frozenset((Status.NOT_SENT, Status.BLOCKED_ADDRESS))
_ALIVE = frozenset((Status.OK, Status.EMPTY, Status.SHORT))
