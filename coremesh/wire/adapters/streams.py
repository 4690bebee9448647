"""From server-sent events to text, for the protocols that stream."""

from __future__ import annotations

from collections.abc import Callable

from coremesh.wire.adapters.protocol import BadAnswer
from coremesh.wire.jsonbound import BadJson
from coremesh.wire.sse import SseOverflow, SseParser

DONE = b"[DONE]"


class EventReader:
    """A DeltaReader over events of which ``read`` takes the text; ``[DONE]`` ends the stream."""

    def __init__(self, read: Callable[[bytes], str]) -> None:
        self._read = read
        self._parser = SseParser()
        self._done = False

    def feed(self, chunk: bytes) -> str:
        """The text that ``chunk`` adds. Raises BadAnswer."""
        try:
            return self._texts(self._parser.feed(chunk))
        except (BadJson, SseOverflow) as error:
            raise BadAnswer(f"stream: {error}") from None

    def finish(self) -> str:
        """The text left at the end. Raises BadAnswer when ``[DONE]`` never came."""
        try:
            text = self._texts(self._parser.finish())
        except (BadJson, SseOverflow) as error:
            raise BadAnswer(f"stream: {error}") from None
        if not self._done:
            raise BadAnswer("stream: cut off before [DONE]")
        return text

    def _texts(self, events: list[bytes]) -> str:
        texts: list[str] = []
        for data in events:
            if self._done:
                break
            if data.strip() == DONE:
                self._done = True
            else:
                texts.append(self._read(data))
        return "".join(texts)
