"""Server-sent events, fed as the bytes arrive."""

from __future__ import annotations


class SseOverflow(ValueError):
    """One event is larger than allowed."""


class SseParser:
    """Splits a ``text/event-stream`` into the data of its events.

    Lines end with LF or CRLF; comments and all fields but ``data`` are dropped; several data lines of one
    event are joined by LF. Holds at most ``max_event_bytes`` between two calls.
    """

    def __init__(self, max_event_bytes: int = 64 * 1024) -> None:
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that ``chunk`` completes. Raises SseOverflow."""
        self._buffer += chunk
        if b"\n" not in chunk:
            self._bound(len(self._buffer))
            return []
        lines = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(lines.pop())
        events: list[bytes] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
                    self._size = 0
            elif line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._data.append(value)
                self._bound(len(value) + 1)
                self._size += len(value) + 1
        self._bound(len(self._buffer))
        return events

    def finish(self) -> list[bytes]:
        """What is left at the end of the stream: an event that was not closed by an empty line."""
        return self.feed(b"\n\n")

    def _bound(self, more: int) -> None:
        if self._size + more > self._max:
            raise SseOverflow(f"an event of more than {self._max} bytes")
