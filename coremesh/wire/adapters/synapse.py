"""``synapse``: the Axon of bittensor SDK 6 to 10, as a plain client speaks to it (WIRE.md)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from hashlib import sha3_256
from typing import Any, Protocol, cast

import msgspec
from msgspec.json import encode

from coremesh.wire.adapters.protocol import (
    JSON_TYPE,
    BadAnswer,
    Call,
    DeltaReader,
    MinerRequest,
    RewardNotice,
)
from coremesh.wire.btauth import Signer
from coremesh.wire.jsonbound import BadJson, decode

VERSION = 10_002_001
# base64 of the JSON empty value of each type that a required field may have.
_EMPTY = {"list": "W10=", "str": "IiI=", "dict": "e30=", "int": "MA==", "float": "MC4w", "bool": "ZmFsc2U="}


class _Answer(Protocol):
    completion: str | None


class SynapseAdapter:
    """Speaks to an Axon.

    ``class_name`` is the synapse's class, thus the path. ``required`` names its fields without a default, with
    their type (a key of: list, str, dict, int, float, bool); ``hash_fields`` is the class's
    ``required_hash_fields``. ``fields`` maps our roles, messages and completion to its names.
    """

    name = "synapse"

    def __init__(
        self,
        signer: Signer,
        *,
        class_name: str = "Prompting",
        backward_class_name: str = "",
        required: Mapping[str, str] | None = None,
        hash_fields: tuple[str, ...] = (),
        fields: Mapping[str, str] | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Raises ValueError for a required field of an unknown type."""
        self._signer = signer
        self._path = "/" + class_name
        self._backward = "/" + backward_class_name if backward_class_name else ""
        self._names = {"roles": "roles", "messages": "messages", "completion": "completion", **(fields or {})}
        if required is None:
            required = {self._names["roles"]: "list", self._names["messages"]: "list"}
        unknown = sorted(set(required.values()) - set(_EMPTY))
        if unknown:
            raise ValueError(f"no empty value is known for a field of type {', '.join(unknown)}")
        self._required = "".join(
            f"bt_header_input_obj_{field}: {_EMPTY[kind]}\r\n" for field, kind in required.items()
        )
        self._hash_fields = hash_fields
        self._clock_ns = clock_ns
        # The answer's one field that we read, under the name that this subnet's synapse gives it.
        answer = msgspec.defstruct(
            "Answer", [("completion", str | None, None)], rename={"completion": self._names["completion"]}
        )
        self._decoder = cast("msgspec.json.Decoder[_Answer]", msgspec.json.Decoder(answer))

    def forward(self, request: MinerRequest, *, stream: bool = False) -> Call:
        """``POST /<class_name>``; an Axon does not stream."""
        return self._call(self._path, self._prompt(request), request.timeout_s)

    def backward(self, notice: RewardNotice) -> Call | None:
        """``POST /<backward_class_name>``, where one is set."""
        if not self._backward:
            return None
        values = self._prompt(notice.request)
        values[self._names["completion"]] = notice.completion
        values["rewards"] = list(notice.rewards)
        return self._call(self._backward, values, notice.request.timeout_s)

    def _prompt(self, request: MinerRequest) -> dict[str, Any]:
        return {
            self._names["roles"]: list(request.roles),
            self._names["messages"]: list(request.messages),
            self._names["completion"]: "",
            "timeout": request.timeout_s,
        }

    def _call(self, path: str, values: dict[str, Any], timeout_s: float) -> Call:
        hashed = "".join(sha3_256(str(values[f]).encode()).hexdigest() for f in self._hash_fields)
        return _Call(
            self._signer,
            path,
            encode(values),
            sha3_256(hashed.encode()).hexdigest(),
            f"{self._required}timeout: {timeout_s:g}\r\n",
            self._clock_ns,
            self._decoder,
        )


class _Call:
    __slots__ = ("_clock_ns", "_decoder", "_digest", "_signer", "_static", "body", "path")

    def __init__(
        self,
        signer: Signer,
        path: str,
        body: bytes,
        digest: str,
        lines: str,
        clock_ns: Callable[[], int],
        decoder: msgspec.json.Decoder[_Answer],
    ) -> None:
        self.path = path
        self.body = body
        self._signer = signer
        self._digest = digest
        self._clock_ns = clock_ns
        self._decoder = decoder
        self._static = (
            f"content-type: {JSON_TYPE}\r\naccept: {JSON_TYPE}\r\n{lines}"
            f"computed_body_hash: {digest}\r\nbt_header_dendrite_version: {VERSION}\r\n"
            f"bt_header_dendrite_hotkey: {signer.hotkey}\r\n"
        )

    def headers(self, receiver: str) -> bytes:
        # The Axon wants nonces that grow per hotkey and uuid: a fresh uuid never has an older one.
        nonce = self._clock_ns()
        fresh = uuid.uuid4()
        message = f"{nonce}.{self._signer.hotkey}.{receiver}.{fresh}.{self._digest}"
        signature = self._signer.sign(message.encode()).hex()
        return (
            f"{self._static}bt_header_axon_hotkey: {receiver}\r\nbt_header_dendrite_nonce: {nonce}\r\n"
            f"bt_header_dendrite_uuid: {fresh}\r\nbt_header_dendrite_signature: 0x{signature}\r\n"
        ).encode()

    def completion(self, content_type: str, body: bytes) -> str:
        if content_type != JSON_TYPE:
            raise BadAnswer(f"content type {content_type[:40]!r}")
        try:
            return decode(body, self._decoder).completion or ""
        except BadJson as error:
            raise BadAnswer(str(error)) from None

    def deltas(self, content_type: str) -> DeltaReader | None:
        return None
