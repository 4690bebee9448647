"""``epistula`` version 2: OpenAI-compatible miners of subnet 1 and others (WIRE.md)."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from coremesh.wire.adapters.protocol import (
    JSON_TYPE,
    SSE_TYPE,
    BadAnswer,
    Call,
    DeltaReader,
    MinerRequest,
    RewardNotice,
)
from coremesh.wire.adapters.streams import EventReader
from coremesh.wire.btauth import Signer
from coremesh.wire.jsonbound import BadJson, decode

PATH = "/v1/chat/completions"
_SECRET_STEP_MS = 10_000


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    index: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []


_COMPLETION = msgspec.json.Decoder(_Completion)
_encode = msgspec.json.Encoder().encode


class EpistulaAdapter:
    """Speaks to OpenAI-compatible miners. ``extra`` is merged into each body (temperature, max_tokens …)."""

    name = "epistula"

    def __init__(
        self,
        signer: Signer,
        *,
        model: str = "",
        extra: Mapping[str, Any] | None = None,
        stream: bool = True,
        secrets: bool = True,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """``stream``: ask for chunks even where the whole text is awaited, as the miners expect;

        ``secrets``: send the three ``Secret-Signature`` headers too.
        """
        self._signer = signer
        self._model = model
        self._extra = dict(extra or {})
        self._stream = stream
        self._secrets = secrets
        self._clock_ms = clock_ms

    def forward(self, request: MinerRequest, *, stream: bool = False) -> Call:
        """``POST /v1/chat/completions``."""
        messages = [
            {"role": role, "content": text}
            for role, text in zip(request.roles, request.messages, strict=True)
        ]
        body: dict[str, Any] = {**self._extra, "messages": messages, "stream": stream or self._stream}
        if self._model:
            body["model"] = self._model
        return _Call(self._signer, _encode(body), request.timeout_s, self._clock_ms, secrets=self._secrets)

    def backward(self, notice: RewardNotice) -> Call | None:
        """The protocol has none."""
        return None


class _Call:
    __slots__ = ("_clock_ms", "_digest", "_secrets", "_signer", "_static", "body", "path")

    def __init__(
        self, signer: Signer, body: bytes, timeout_s: float, clock_ms: Callable[[], int], *, secrets: bool
    ) -> None:
        self.path = PATH
        self.body = body
        self._signer = signer
        self._clock_ms = clock_ms
        self._secrets = secrets
        self._digest = sha256(body).hexdigest()
        self._static = (
            f"content-type: {JSON_TYPE}\r\naccept: {SSE_TYPE}, {JSON_TYPE}\r\nX-Client-Timeout: {timeout_s:g}\r\n"
            f"Epistula-Version: 2\r\nEpistula-Signed-By: {signer.hotkey}\r\n"
        )

    def headers(self, receiver: str) -> bytes:
        timestamp = self._clock_ms()
        fresh = uuid.uuid4()
        lines = [
            f"Epistula-Timestamp: {timestamp}",
            f"Epistula-Uuid: {fresh}",
            f"Epistula-Signed-For: {receiver}",
            f"Epistula-Request-Signature: {self._hex(f'{self._digest}.{fresh}.{timestamp}.{receiver}')}",
        ]
        if self._secrets:
            # A float on purpose: receivers sign what Python prints of it.
            middle = math.ceil(timestamp / _SECRET_STEP_MS) * float(_SECRET_STEP_MS)
            lines += [
                f"Epistula-Secret-Signature-{i}: {self._hex(f'{middle + offset}.{receiver}')}"
                for i, offset in enumerate((-1, 0, 1))
            ]
        return (self._static + "\r\n".join(lines) + "\r\n").encode()

    def _hex(self, message: str) -> str:
        return "0x" + self._signer.sign(message.encode()).hex()

    def completion(self, content_type: str, body: bytes) -> str:
        reader = self.deltas(content_type)
        if reader is not None:
            return reader.feed(body) + reader.finish()
        if content_type != JSON_TYPE:
            raise BadAnswer(f"content type {content_type[:40]!r}")
        try:
            return _text(body)
        except BadJson as error:
            raise BadAnswer(str(error)) from None

    def deltas(self, content_type: str) -> DeltaReader | None:
        return EventReader(_text) if content_type == SSE_TYPE else None


def _text(data: bytes) -> str:
    """The text of the first choice, in a whole completion or in one chunk of it."""
    for choice in decode(data, _COMPLETION).choices:
        part = choice.message or choice.delta
        if choice.index == 0 and part is not None:
            return part.content or ""
    return ""
