"""What validators send: the bodies of ``/forward`` and ``/backward``, read within bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from coremesh.errors import BadMessages, BadRequest

MAX_BODY_BYTES = 1024 * 1024
MAX_TURNS = 1024

Role = Literal["system", "user", "assistant"]
Text = Annotated[str, msgspec.Meta(max_length=MAX_BODY_BYTES)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Forward(msgspec.Struct, frozen=True):
    """A conversation to complete: ``roles[i]`` says ``messages[i]``. Fields that we do not know are ignored."""

    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1, max_length=MAX_TURNS)]
    messages: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=MAX_TURNS)]
    timeout: Seconds | None = None

    def turns(self) -> list[dict[str, str]]:
        """As chat messages ``{role, content}``."""
        pairs = zip(self.roles, self.messages, strict=True)
        return [{"role": role, "content": content} for role, content in pairs]


class Backward(msgspec.Struct, frozen=True):
    """What a validator thought of a completion; for a miner's own learning."""

    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1, max_length=MAX_TURNS)]
    messages: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=MAX_TURNS)]
    completion: Text
    rewards: Annotated[tuple[float, ...], msgspec.Meta(max_length=4096)]


Body = TypeVar("Body", Forward, Backward)


def read_body(body: bytes, shape: type[Body]) -> Body:
    """``body`` as ``shape``. Raises BadRequest, or BadMessages when the conversation makes no sense."""
    try:
        request = msgspec.json.decode(body, type=shape)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not what this path takes: {str(error)[:300]}") from None
    if len(request.roles) != len(request.messages):
        raise BadMessages(
            f"there are {len(request.roles)} roles and {len(request.messages)} messages",
            remedy="Send one role for each message.",
        )
    if not any(message.strip() for message in request.messages):
        raise BadMessages("all messages are empty")
    return request


def openapi_of(shape: type[msgspec.Struct]) -> dict[str, Any]:
    """The OpenAPI ``requestBody`` of a shape."""
    (schema,), parts = msgspec.json.schema_components([shape], ref_template="#/{name}")
    del schema
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": parts[shape.__name__]}}}
    }
