"""How long, and for how much, a server listens to one client.

uvicorn itself waits for ever for a request that has begun to arrive, keeps whatever headers come, and waits for ever
for a client that does not read its answer: a few thousand idle sockets would leave none for anybody else.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together."""
MAX_HEADERS = 128


class HeadTooLong(ValueError):
    """A request's head is over a bound; the parser turns it into 400."""


class Patient(HttpToolsProtocol):
    """A connection whose requests must arrive, and whose answers must be read on, within ``receive_s`` seconds.

    The time runs from the connection, or from a request's first byte, to its last. A client that is late is dropped.
    """

    receive_s = 30.0
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _unread = 0
    _receiving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects has something to say."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is expected."""
        self._relax()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What is no request yet (an empty line) has ended uvicorn's own wait for one: ours goes on."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_HEAD_BYTES and self._receiving and not self.transport.is_closing():
            # The parser keeps a header's value, or a trailer's, until it has all of it.
            self.send_400_response("A header has no end.")
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None until the first request
        idle = not self._receiving and (cycle is None or cycle.response_complete)
        if idle and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._expect()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head_bytes = 0
        self._receiving = True
        self._relax()
        self._expect()

    def on_url(self, url: bytes) -> None:
        """A piece of the request line. Raises HeadTooLong."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. Raises HeadTooLong."""
        self._count(len(name) + len(value) + 4)
        if len(self.headers) >= MAX_HEADERS:
            raise HeadTooLong
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body; how long that may be is for the app to say."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole; from here on its time is ours."""
        self._receiving = False
        self._unread = 0
        self._relax()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.receive_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _count(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLong

    def _expect(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.receive_s, self._give_up)

    def _relax(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self.transport.abort()


def patient(receive_s: float) -> type[Patient]:
    """The protocol with this patience, for ``uvicorn.Config(http=...)``."""
    return type("Patient", (Patient,), {"receive_s": receive_s})
