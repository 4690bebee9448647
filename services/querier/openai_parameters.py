"""What becomes of the parameters of OpenAI's chat API that miners cannot serve.

Whoever sends one has code that relies on it, so that none that would change the answer's meaning is passed over in
silence: those are refused with 400, named, unless their value asks for nothing (``tools: []``, ``logprobs: false``,
``response_format: {"type": "text"}``). Wishes that OpenAI, too, promises nothing of, or that are about its own house,
are taken and have no effect: clients send them by default. So are fields that nobody here knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coremesh.errors import BadRequest

NO_EFFECT = frozenset(
    {
        # How a model samples: each miner has a model, and sampling, of its own.
        *(
            "temperature",
            "top_p",
            "min_p",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "seed",
        ),
        # How hard it thinks and how much it says.
        *("reasoning_effort", "verbosity"),
        # OpenAI's own accounts, storage, queues and caches.
        *("user", "safety_identifier", "metadata", "store", "service_tier", "prediction"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        # How tools are called: tools themselves are refused.
        "parallel_tool_calls",
    }
)
"""Taken, whatever their value."""


class BadParameter(BadRequest):
    """A field of a chat request is wrong. ``param`` names it, as OpenAI's errors do."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.param = param


class UnsupportedParameter(BadParameter):
    """It asks for something that miners cannot do."""

    code = "unsupported_parameter"


class UnknownParameter(BadParameter):
    """It is ours, and in the wrong place."""

    code = "unknown_parameter"


Asks = Callable[[Any, Mapping[str, Any]], bool]
"""Whether a value asks for something that cannot be honoured, given what else the body holds."""


def _anything(value: Any, _others: Mapping[str, Any]) -> bool:
    return bool(value)


def _a_tool(value: Any, others: Mapping[str, Any]) -> bool:
    # With "none" no tool may be called, which is what happens.
    return bool(value) and others.get("tool_choice") != "none"


def _a_function(value: Any, others: Mapping[str, Any]) -> bool:
    return bool(value) and others.get("function_call") != "none"


def _a_call(value: Any, _others: Mapping[str, Any]) -> bool:
    return value not in ("none", "auto")  # without tools, auto is none


def _a_format(value: Any, _others: Mapping[str, Any]) -> bool:
    return not (isinstance(value, dict) and value.get("type") == "text")


def _more_than_text(value: Any, _others: Mapping[str, Any]) -> bool:
    return value not in ([], ["text"])


_PROMPT = "Miners answer in plain text: say in the messages what you want, and leave {} out."
_TOOLS = "Miners call no tools: leave {} out, or send tool_choice 'none'."
_TEXT = "Miners give text and nothing else: leave {} out."
REFUSED: dict[str, tuple[Asks, str]] = {
    "tools": (_a_tool, _TOOLS),
    "tool_choice": (_a_call, _TOOLS),
    "functions": (_a_function, _TOOLS),
    "function_call": (_a_call, _TOOLS),
    "response_format": (_a_format, _PROMPT),
    "logprobs": (_anything, _TEXT),
    "top_logprobs": (_anything, _TEXT),
    "modalities": (_more_than_text, _TEXT),
    "audio": (_anything, _TEXT),
    "logit_bias": (_anything, "Miners have tokens of their own: leave {} out."),
    "web_search_options": (lambda value, _others: value is not None, "Miners search nothing: leave {} out."),
    "moderation": (_anything, "What is filtered is the operator's choice: leave {} out."),
}
"""Refused where the value asks for something, with the remedy."""


def check(extra: Mapping[str, Any]) -> None:
    """Look at the fields of a body that are not served.

    Raises UnsupportedParameter or UnknownParameter. Null is as good as nothing.
    """
    for name, value in extra.items():
        if value is None or name in NO_EFFECT:
            continue
        if name in REFUSED:
            asks, remedy = REFUSED[name]
            if asks(value, extra):
                raise UnsupportedParameter(
                    f"{name} is not supported" + _value(name, value), param=name, remedy=remedy.format(name)
                )
        elif name == "private":
            # Taken for a stranger's, it would leave a text in the history that its writer thinks is not there.
            raise UnknownParameter(
                f"{name} is no parameter of this API",
                param=name,
                remedy=f'Wishes that only coremesh knows go under "coremesh": {{"coremesh": {{"{name}": …}}}}.',
            )


def _value(name: str, value: Any) -> str:
    kind = value.get("type") if name == "response_format" and isinstance(value, dict) else None
    return f" with type {kind[:40]!r}" if isinstance(kind, str) else ""
