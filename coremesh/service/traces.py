"""OpenTelemetry traces for those who ask for them. Nothing of OpenTelemetry is imported before ``start``.

A trace follows one request through all services: ``headers`` go with every call to another service, ``Correlate`` reads
them there. Attributes are ids, numbers and names; texts never are. Spans wait in a bounded queue for a thread that
exports them: while nobody takes them they are dropped, and nothing else waits.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coremesh import __version__
from coremesh.errors import BadSetting
from coremesh.settings import TraceSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

QUEUE = 4096
"""Spans that wait for export; beyond, the oldest are dropped."""
BATCH = 512
EVERY_MS = 1000
EXPORT_S = 5.0
STOP_S = 3.0
MAX_CHARS = 128
"""Characters of one attribute."""
EVENT_HEADER = "coremesh-event-id"
PARENT_HEADER = "traceparent"
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
_EVENT_ID = re.compile(r"[0-9A-Z]{26}")

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class _Started:
    provider: TracerProvider
    tracer: Tracer
    propagator: TraceContextTextMapPropagator


_started: _Started | None = None


class Span:
    """One piece of work in a trace; without traces it does nothing."""

    __slots__ = ("_span",)

    def __init__(self, span: OtelSpan | None = None) -> None:
        self._span = span

    def set(self, **attributes: Value) -> None:
        """Add attributes."""
        if self._span is not None:
            self._span.set_attributes(attributes)


_NOTHING = Span()
_OFF = nullcontext(_NOTHING)
"""One for all: without traces a span costs a call."""


def start(settings: TraceSettings, service: str) -> None:
    """Take traces from now on, if the settings name an endpoint. Raises BadSetting without the libraries."""
    global _started
    if not settings.endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        raise BadSetting(
            "COREMESH_TRACES_ENDPOINT is set, and OpenTelemetry is not installed",
            remedy="pip install 'coremesh[traces]', build the image with EXTRAS=traces, or unset it.",
        ) from None
    resource = Resource.create(
        {
            "service.name": settings.service or f"coremesh-{service}",
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
    )
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.sample),
        resource=resource,
        span_limits=SpanLimits(max_attribute_length=MAX_CHARS),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(_url(settings.endpoint), timeout=EXPORT_S)
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter, max_queue_size=QUEUE, max_export_batch_size=BATCH, schedule_delay_millis=EVERY_MS
        )
    )
    # An exporter that is down would say so with every batch.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    logging.getLogger("opentelemetry.exporter").addFilter(_Seldom())
    _started = _Started(provider, provider.get_tracer("coremesh"), TraceContextTextMapPropagator())


def stop() -> None:
    """Export what waits, for at most STOP_S, and take no more traces."""
    global _started
    ended, _started = _started, None
    if ended is None:
        return
    # In a thread: an exporter that hangs in a request does not hear that it is to stop.
    stopping = threading.Thread(target=ended.provider.shutdown, name="traces-stop", daemon=True)
    stopping.start()
    stopping.join(STOP_S)


def on() -> bool:
    """Whether traces are taken."""
    return _started is not None


def span(name: str, **attributes: Value) -> AbstractContextManager[Span]:
    """A span around the block, under the current one. It tells the class of what the block raises, never its text."""
    if _started is None:
        return _OFF
    return _entered(_started.tracer.start_span(name, attributes=attributes))


def leaf(name: str, seconds: float, **attributes: Value) -> None:
    """A span of work that ended now and took ``seconds``, under the current one."""
    if _started is not None:
        now = time.time_ns()
        begun = now - int(max(0.0, seconds) * 1e9) if seconds < 1e6 else now
        _started.tracer.start_span(name, attributes=attributes, start_time=begun).end(now)


def trace_id() -> str:
    """The current trace in 32 hex digits; empty when none is taken."""
    if _started is None:
        return ""
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid and context.trace_flags.sampled else ""


def headers() -> dict[str, str]:
    """What goes with a call to another service: the event that it is for, and the trace."""
    sent: dict[str, str] = {}
    event_id = structlog.contextvars.get_contextvars().get("event_id")
    if event_id is not None:
        sent[EVENT_HEADER] = event_id
    if _started is not None:
        _started.propagator.inject(sent)
    return sent


def stamp(logger: Any, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A structlog processor that adds ``trace_id``."""
    if _started is not None and (found := trace_id()):
        line["trace_id"] = found
    return line


class Correlate:
    """Names the event of a request in its log lines, and takes its span.

    With ``public`` both begin here: a stranger's headers name neither our events nor our traces.
    """

    def __init__(self, app: ASGIApp, public: bool) -> None:
        self._app = app
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        given = {} if self._public else _wanted(scope)
        event_id = given.get(EVENT_HEADER, "")
        if not _EVENT_ID.fullmatch(event_id):
            await self._traced(given, scope, receive, send)
            return
        with structlog.contextvars.bound_contextvars(event_id=event_id):
            await self._traced(given, scope, receive, send)

    async def _traced(self, given: Mapping[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        if _started is None:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind

        made = _started.tracer.start_span(
            scope["method"], _started.propagator.extract(given), kind=SpanKind.SERVER
        )
        status = 500

        async def watching(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with _entered(made) as entered:
            try:
                await self._app(scope, receive, watching)
            finally:
                template = getattr(scope.get("route"), "path", "none")
                made.update_name(f"{scope['method']} {template}")
                entered.set(**{"http.route": template, "http.response.status_code": status})


@contextmanager
def _entered(made: OtelSpan) -> Generator[Span]:
    from opentelemetry.trace import Status, StatusCode, use_span

    # What an exception says may quote a text, so only its class is kept.
    with use_span(made, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield Span(made)
        except BaseException as error:
            made.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _wanted(scope: Scope) -> dict[str, str]:
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in (b"traceparent", b"coremesh-event-id")
    }


def _url(endpoint: str) -> str:
    """The full address: an endpoint without a path means OTLP's own path for traces."""
    scheme, _, rest = endpoint.partition("://")
    host, slash, path = rest.partition("/")
    return endpoint if slash and path else f"{scheme}://{host}/v1/traces"


class _Seldom(logging.Filter):
    """Lets one record a minute pass."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + 60.0
        return True
