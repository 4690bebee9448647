"""structlog, as JSON for machines or lines for people. Called once, by a service's ``__main__``."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, TextIO

import structlog

from coremesh.service import traces
from coremesh.settings import LogSettings

HIDDEN = "not shown: it may quote a text; COREMESH_LOG_LEVEL=debug shows it"
QUOTING = (ValueError, LookupError)
"""Errors whose messages quote what they could not take: a prompt, a key (pydantic's and JSON's are among them)."""


class _Errors:
    """An error as JSON has it: without the locals of frames, and without messages that quote."""

    def __init__(self, quote: bool) -> None:
        self._quote = quote
        self._transform = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)

    def __call__(self, exc_info: Any) -> list[dict[str, Any]]:
        """The error and those behind it, as dictionaries."""
        shown = self._transform(exc_info)
        if not self._quote:
            _hide(exc_info[1], shown)
        return shown


def _hide(error: BaseException | None, shown: list[dict[str, Any]]) -> None:
    for one, told in zip(_chain(error), shown, strict=False):
        if isinstance(one, QUOTING):
            told |= {"exc_value": HIDDEN, "exc_notes": [], "syntax_error": None}
        if isinstance(one, BaseExceptionGroup):
            for member, members in zip(one.exceptions, told["exceptions"], strict=False):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]
                _hide(member, members)  # pyright: ignore[reportUnknownArgumentType]


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those behind it, the newest first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def _plain_errors(quote: bool) -> Any:
    """An error as lines for people, likewise."""

    def write(to: TextIO, exc_info: Any) -> None:
        for error in reversed(_chain(exc_info[1])):
            to.write("\n" + "".join(traceback.format_tb(error.__traceback__)[-20:]))
            said = HIDDEN if not quote and isinstance(error, QUOTING) else str(error)
            to.write(f"{type(error).__name__}: {said}")

    return write


def configure_logging(settings: LogSettings, service: str) -> None:
    """Write every log record, ours and the libraries', to standard error in one format.

    From info on, no record shows the locals of a frame or an error's message that may quote a text.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    quote = level <= logging.DEBUG
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        traces.stamp,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: list[structlog.typing.Processor]
    if settings.format == "json":
        errors = structlog.processors.ExceptionRenderer(_Errors(quote))
        renderer = [errors, structlog.processors.JSONRenderer()]
    else:
        renderer = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_plain_errors(quote)
            )
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.contextvars.bind_contextvars(service=service)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "websockets", "asyncio"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
