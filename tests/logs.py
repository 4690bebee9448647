from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

from coremesh.service.logs import configure_logging
from coremesh.settings import LogSettings, load


@contextmanager
def captured(flags: Sequence[str] = ()) -> Iterator[io.StringIO]:
    """What the services' own logging writes meanwhile, set up as ``flags`` say."""
    root = logging.getLogger()
    before, level, configured = root.handlers[:], root.level, structlog.get_config()
    configure_logging(load([LogSettings], list(flags))[LogSettings], "tests")
    written = io.StringIO()
    handler = root.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(written)
    try:
        yield written
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.configure(**configured)
        structlog.contextvars.clear_contextvars()
