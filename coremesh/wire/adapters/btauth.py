"""``coremesh/1`` over ``btauth/1``: our own miners.

``POST /forward`` {roles, messages, timeout} → {completion}. A caller that accepts ``text/event-stream`` may get
events ``{"delta": "..."}`` instead, ended by ``[DONE]``. ``POST /backward`` {roles, messages, completion, rewards}.
"""

from __future__ import annotations

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
from coremesh.wire.btauth import SignedBody, Signer
from coremesh.wire.jsonbound import BadJson, decode


class _Answer(msgspec.Struct):
    completion: str | None = None


class _Delta(msgspec.Struct):
    delta: str = ""


_ANSWER = msgspec.json.Decoder(_Answer)
_DELTA = msgspec.json.Decoder(_Delta)
_encode = msgspec.json.Encoder().encode


class BtauthAdapter:
    """Speaks ``coremesh/1``."""

    name = "btauth"

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def forward(self, request: MinerRequest, *, stream: bool = False) -> Call:
        """``POST /forward``."""
        body = _encode({"roles": request.roles, "messages": request.messages, "timeout": request.timeout_s})
        return _Call(self._signer, "/forward", body, stream=stream)

    def backward(self, notice: RewardNotice) -> Call | None:
        """``POST /backward``."""
        body = _encode(
            {
                "roles": notice.request.roles,
                "messages": notice.request.messages,
                "completion": notice.completion,
                "rewards": notice.rewards,
            }
        )
        return _Call(self._signer, "/backward", body, stream=False)


class _Call:
    __slots__ = ("_accept", "_signed", "body", "path")

    def __init__(self, signer: Signer, path: str, body: bytes, *, stream: bool) -> None:
        self.path = path
        self.body = body
        self._signed: SignedBody = signer.prepare("POST", path, body)
        accept = f"{SSE_TYPE}, {JSON_TYPE}" if stream else JSON_TYPE
        self._accept = f"content-type: {JSON_TYPE}\r\naccept: {accept}\r\n".encode()

    def headers(self, receiver: str) -> bytes:
        return self._accept + self._signed.block(receiver)

    def completion(self, content_type: str, body: bytes) -> str:
        reader = self.deltas(content_type)
        if reader is not None:
            return reader.feed(body) + reader.finish()
        if content_type != JSON_TYPE:
            raise BadAnswer(f"content type {content_type[:40]!r}")
        try:
            return decode(body, _ANSWER).completion or ""
        except BadJson as error:
            raise BadAnswer(str(error)) from None

    def deltas(self, content_type: str) -> DeltaReader | None:
        return EventReader(_delta) if content_type == SSE_TYPE else None


def _delta(data: bytes) -> str:
    return decode(data, _DELTA).delta
