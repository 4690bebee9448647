"""structlog, as JSON for machines or lines for people. Called once, by a service's ``__main__``."""

from __future__ import annotations

import logging
import sys

import structlog

from coremesh.service import traces
from coremesh.settings import LogSettings


def configure_logging(settings: LogSettings, service: str) -> None:
    """Write every log record, ours and the libraries', to standard error in one format."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
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
        # Without the locals of frames: they hold prompts and keys.
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
        renderer = [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer()]
    else:
        renderer = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
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
