"""The shapes of OpenAI's chat API, as far as miners can serve them.

What else the body holds is kept for openai_parameters.py to judge; unknown fields inside of a message are tolerated.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from coremesh.contracts import ChatMessage, Role
from coremesh.errors import BadMessages

MODEL = "coremesh"
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class TextPart(_Tolerant):
    """A piece of a message's content."""

    type: str
    text: str | None = None


class Turn(_Tolerant):
    """One message."""

    role: str
    content: str | tuple[TextPart, ...] | None = None

    def message(self, at: int) -> ChatMessage:
        """As the mesh has it. Raises BadMessages for what no miner reads."""
        role = _ROLES.get(self.role)
        if role is None:
            raise BadMessages(f"messages[{at}].role is {self.role[:40]!r}; it takes {', '.join(_ROLES)}")
        if isinstance(self.content, tuple):
            if any(part.type != "text" or part.text is None for part in self.content):
                raise BadMessages(f"messages[{at}].content has a part that is not text")
            text = "\n".join(part.text or "" for part in self.content)
        else:
            text = self.content or ""
        if not text.strip():
            raise BadMessages(f"messages[{at}].content is empty")
        return ChatMessage(role=role, content=text)


class StreamOptions(_Tolerant):
    """How to stream."""

    include_usage: bool = False


class Wishes(BaseModel):
    """What only coremesh knows, under ``coremesh`` in the body (``extra_body`` in the openai client)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout: float | None = None
    top_k: int | Literal["auto"] | None = None
    wait_for: int | None = Field(default=None, ge=1)
    use_reward_model: bool | None = None
    private: bool = False


Stop = Annotated[str, Field(min_length=1, max_length=256)]


class ChatRequest(_Tolerant):
    """``POST /v1/chat/completions``. docs/developers.md says what becomes of OpenAI's other parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str = MODEL
    messages: tuple[Turn, ...] = Field(min_length=1, max_length=1024)
    n: int | None = Field(1, ge=1, le=128)
    stop: Stop | Annotated[tuple[Stop, ...], Field(max_length=16)] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    coremesh: Wishes = Wishes()

    @property
    def beside(self) -> dict[str, Any]:
        """Fields that are none of the above."""
        return self.model_extra or {}

    @property
    def stops(self) -> tuple[str, ...]:
        """All stop sequences."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    @property
    def most_tokens(self) -> int | None:
        """The bound on a completion's tokens."""
        return self.max_completion_tokens or self.max_tokens
