"""One connection to one miner: bytes in, a bounded answer out.

An asyncio BufferedProtocol on the httptools parser. All connections of a client read into one shared buffer, which is
safe because a chunk is wholly consumed before the loop reads the next.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from collections.abc import Callable
from hashlib import sha256
from ssl import SSLObject
from typing import Protocol, cast

import httptools

from coremesh.wire.status import Status
from services.querier.miners.addresses import refusal
from services.querier.miners.certificates import is_key
from services.querier.miners.limits import MinerLimits, Target, Tls

READ_BYTES = 64 * 1024
_WIRE_FACTOR = 4
"""Wire bytes per body byte that chunked framing may cost before it counts as an attack."""


class Reader(Protocol):
    """Whoever waits for the answer on a connection."""

    def on_head(self, content_type: str) -> None:
        """A 200 with acceptable headers has begun."""
        ...

    def on_body(self, chunk: bytes) -> None:
        """A piece of the body, within the cap."""
        ...

    def on_answer(self) -> None:
        """The body is complete."""
        ...

    def on_failure(self, status: Status, detail: str, *, untouched: bool) -> None:
        """No answer will come. ``untouched``: a kept connection died before a byte of the answer."""
        ...


class Connection(asyncio.BufferedProtocol):
    """A socket to ``target``, used by one request at a time."""

    __slots__ = (
        "_body_bytes",
        "_buffer",
        "_complete",
        "_content_type",
        "_extra",
        "_failure",
        "_framed",
        "_header_bytes",
        "_headers",
        "_headers_done",
        "_keep",
        "_limits",
        "_on_closed",
        "_on_idle",
        "_parser",
        "_reader",
        "_received",
        "_transport",
        "host_line",
        "idle_since",
        "kept",
        "refused",
        "target",
    )

    def __init__(
        self,
        target: Target,
        limits: MinerLimits,
        buffer: memoryview,
        on_idle: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.target = target
        host = f"[{target.host}]" if ":" in target.host else target.host
        self.host_line = f"host: {host}:{target.port}\r\n".encode()
        self.kept = False
        self.refused: tuple[Status, str] | None = None
        self.idle_since = 0.0
        self._limits = limits
        self._buffer = buffer
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._reader: Reader | None = None
        self._reset()

    def _reset(self) -> None:
        self._received = 0
        self._header_bytes = 0
        self._headers = 0
        self._body_bytes = 0
        self._content_type = ""
        self._framed = False
        self._headers_done = False
        self._complete = False
        self._extra = False
        self._keep = False
        self._failure: tuple[Status, str] | None = None

    # -- the socket ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Judge the peer really connected to before a byte is sent; a bad one is left in ``refused``."""
        # uvloop's transports are no subclass of asyncio's, so there is nothing to check at run time.
        self._transport = cast(asyncio.Transport, transport)
        self.refused = self._judge(self._transport)
        if self.refused is not None:
            self._transport.abort()

    def _judge(self, transport: asyncio.Transport) -> tuple[Status, str] | None:
        peer = transport.get_extra_info("peername")
        reason = (
            refusal(str(peer[0]), self._limits.allow_loopback, self._limits.networks)
            if peer
            else "unknown peer"
        )
        if reason:
            return Status.BLOCKED_ADDRESS, reason
        tls = self.target.tls
        if tls is not None and (tls.fingerprint or tls.public_key):
            ssl_object = transport.get_extra_info("ssl_object")
            certificate = ssl_object.getpeercert(True) if isinstance(ssl_object, SSLObject) else None
            if certificate is None or not _is_pinned(certificate, tls):
                return Status.REFUSED, "the certificate is not the pinned one"
        return None

    @property
    def usable(self) -> bool:
        """Open and without a request."""
        return self._transport is not None and self._reader is None and not self._transport.is_closing()

    @property
    def spoke_unasked(self) -> bool:
        """Whether bytes wait in the socket that no request of ours has caused.

        Such bytes close a kept connection once they are read. Sent on before that, the next request would take them
        for its answer. Over TLS this cannot be seen: a peer may send session tickets at any time.
        """
        transport = self._transport
        if transport is None or self.target.tls is not None:
            return False
        waiting = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, _NO_BYTES)
        return waiting != _NO_BYTES

    def send(self, request: bytes, reader: Reader) -> None:
        """Write one request; ``reader`` hears of its answer. Only on a usable connection."""
        assert self._transport is not None
        self._reader = reader
        self._transport.write(request)

    def close(self) -> None:
        """Drop the connection at once; a waiting reader hears nothing more."""
        self._reader = None
        if self._transport is not None:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop puts the next bytes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what has come, then see where that leaves the request."""
        if self._reader is None:  # unasked-for bytes: the peer is confused or hostile
            self.close()
            return
        self._received += nbytes
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        broken = ""
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            broken = type(error).__name__
        if self._reader is None:
            return  # the reader gave up while it was hearing of the body
        if self._failure is not None:
            self._fail(*self._failure)
        elif self._complete:
            self._finish(keep=not broken)
        elif broken:
            self._fail(Status.MALFORMED, broken)
        elif not self._headers_done and self._received > self._limits.max_header_bytes:
            self._fail(Status.TOO_BIG, "headers")
        elif self._received > self._limits.max_header_bytes + _WIRE_FACTOR * self._limits.max_body_bytes:
            self._fail(Status.TOO_BIG, "framing")

    def eof_received(self) -> bool:
        """The end of a body that has no length but the connection's; anything else is cut off."""
        if self._headers_done and not self._framed and not self._complete and self._reader is not None:
            self._finish(keep=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the waiting reader, and whoever counts sockets."""
        self._transport = None
        self._parser = None  # it refers back to us
        reader, self._reader = self._reader, None
        self._on_closed(self)
        if reader is not None:
            detail = type(exc).__name__ if exc is not None else "closed before the answer was complete"
            reader.on_failure(Status.REFUSED, detail, untouched=self.kept and self._received == 0)

    # -- outcomes --------------------------------------------------------------------------------------------

    def _fail(self, status: Status, detail: str) -> None:
        reader = self._reader
        self.close()
        if reader is not None:
            reader.on_failure(status, detail, untouched=False)

    def _finish(self, *, keep: bool) -> None:
        reader, self._reader = self._reader, None
        if keep and self._keep and self._framed and not self._extra:
            self._reset()
            self._on_idle(self)
        else:
            self.close()
        if reader is not None:
            reader.on_answer()

    # -- the parser's callbacks: they record, and never raise ----------------------------------------------------

    def on_message_begin(self) -> None:
        """A status line starts; after a complete answer it is one too many."""
        if self._complete:
            self._extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count each header, and look at the four that matter. Trailers and interim responses count too."""
        self._headers += 1
        self._header_bytes += len(name) + len(value) + 4
        if self._headers > self._limits.max_headers or self._header_bytes > self._limits.max_header_bytes:
            self._refuse(Status.TOO_BIG, "headers")
        if self._headers_done or self._extra or len(name) not in _LENGTHS:
            return
        lowered = name.lower()
        if lowered == b"content-type":
            if self._content_type:
                self._refuse(Status.MALFORMED, "two content types")
            self._content_type = value.partition(b";")[0].strip().lower().decode("latin-1")
        elif lowered == b"content-encoding":
            if value.strip().lower() not in (b"", b"identity"):
                self._refuse(Status.MALFORMED, "content-encoding")
        elif lowered == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                self._refuse(Status.MALFORMED, "transfer-encoding")
            self._framed = True
        elif lowered == b"content-length":
            self._framed = True
            if (
                not value.isdigit()
                or len(value) > _MAX_LENGTH_DIGITS
                or int(value) > self._limits.max_body_bytes
            ):
                self._refuse(Status.TOO_BIG, "content-length")

    def on_headers_complete(self) -> None:
        """Judge the status; of an interim response nothing is kept but what it counted."""
        if self._extra or self._failure is not None or self._parser is None or self._reader is None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._content_type = ""
            self._framed = False
            return
        if status != 200:
            self._refuse(Status.BAD_STATUS, f"HTTP {status}")
            return
        self._headers_done = True
        self._reader.on_head(self._content_type)

    def on_body(self, chunk: bytes) -> None:
        """Hand the body on while it stays under the cap."""
        if self._extra or self._failure is not None:
            return
        self._body_bytes += len(chunk)
        if self._body_bytes > self._limits.max_body_bytes:
            self._refuse(Status.TOO_BIG, "body")
        elif self._reader is not None:
            self._reader.on_body(chunk)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one."""
        if self._headers_done and not self._complete and self._parser is not None:
            self._complete = True
            # To be asked here and now: the parser forgets it when this callback returns.
            self._keep = self._parser.should_keep_alive()

    def _refuse(self, status: Status, detail: str) -> None:
        if self._failure is None and not self._complete:
            self._failure = (status, detail)


def _is_pinned(certificate: bytes, tls: Tls) -> bool:
    wanted = tls.fingerprint.lower().replace(":", "")
    if wanted and sha256(certificate).hexdigest() != wanted:
        return False
    return not tls.public_key or is_key(certificate, bytes.fromhex(tls.public_key))


_LENGTHS = frozenset(map(len, ("content-type", "content-encoding", "transfer-encoding", "content-length")))
_MAX_LENGTH_DIGITS = 15
_NO_BYTES = bytes(4)
"""A C int of 0."""
