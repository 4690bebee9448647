"""Traces within one process: what is off costs nothing, what is on says no text, what fails hurts nobody."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import structlog
from fastapi import FastAPI

from coremesh.contracts import FilterRequest, FilterResponse
from coremesh.mesh import Mesh
from coremesh.service import Health, create_app, traces
from coremesh.settings import MeshSettings, TraceSettings, load
from coremesh.types import new_event_id
from tests.integration.querier.serving import Servers
from tests.integration.traces.collector import Collector
from tests.logs import captured
from tests.unit.weights.test_submitter import bench
from tests.wait import wait_until

ROOT = Path(__file__).parents[3]
EVENT = new_event_id()


def tracing_to(url: str, *flags: str) -> TraceSettings:
    return load([TraceSettings], [f"--traces.endpoint={url}", *flags])[TraceSettings]


@pytest.fixture
def tracing(collector: Collector) -> Iterator[Collector]:
    traces.start(tracing_to(collector.url), "tests")
    yield collector
    traces.stop()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the services' own logging writes meanwhile."""
    with captured() as written:
        yield written


def run(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60, cwd=ROOT
    )


def test_without_an_endpoint_no_library_is_loaded() -> None:
    code = (
        "import sys\n"
        "from coremesh.service import traces\n"
        "from coremesh.settings import TraceSettings\n"
        "import services.querier.app\n"
        "traces.start(TraceSettings(), 'querier')\n"
        "with traces.span('a', n=1) as span: span.set(b=2)\n"
        "traces.leaf('c', 1.0)\n"
        "assert (traces.on(), traces.trace_id(), traces.headers()) == (False, '', {})\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk.trace', 'opentelemetry.exporter'))])\n"
    )
    done = run(code)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_an_endpoint_without_the_libraries_is_one_sentence_and_exit_code_2() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "from coremesh.service import run_service\n"
        "sys.exit(run_service('x', lambda *_: None, [], port=0, argv=sys.argv[1:]))\n"
    )
    done = run(code, "--traces.endpoint=http://127.0.0.1:4318")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "x: COREMESH_TRACES_ENDPOINT is set, and OpenTelemetry is not installed. "
        "pip install 'coremesh[traces]', build the image with EXTRAS=traces, or unset it."
    ]


async def test_an_error_names_its_class_and_never_its_text(tracing: Collector) -> None:
    with pytest.raises(ValueError), traces.span("work"):
        raise ValueError("MARKER of a prompt")
    traces.stop()
    (span,) = tracing.named("work")
    assert span.failed == "ValueError"
    assert all(b"MARKER" not in body for body in tracing.bodies)


async def test_the_next_service_goes_on_with_event_and_trace(tracing: Collector, lines: io.StringIO) -> None:
    async with Servers() as servers:
        url = await servers.serve(_answering())
        async with Mesh(load([MeshSettings], [f"--mesh.reward_url={url}"])[MeshSettings]) as mesh:
            with structlog.contextvars.bound_contextvars(event_id=EVENT), traces.span("asks"):
                trace = traces.trace_id()
                await mesh.reward.filter(FilterRequest(texts=("a",)), timedelta(seconds=20))
    (line,) = [json.loads(one) for one in lines.getvalue().splitlines() if "judging" in one]
    assert (line["event_id"], line["trace_id"]) == (EVENT, trace)
    traces.stop()
    assert tracing.paths(trace) == {("tests: asks",), ("tests: asks", "tests: POST /filter")}


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "00-" + "g" * 32 + "-" + "b" * 16 + "-01", "coremesh-event-id": "x" * 9999},
        {"traceparent": "\xff" * 50, "coremesh-event-id": "\n"},
    ],
)
async def test_headers_that_are_no_headers_of_ours_are_passed_over(
    tracing: Collector, lines: io.StringIO, headers: dict[str, str]
) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(_answering()), base_url="http://x") as client:
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        response = await client.post("/filter", json={"texts": ["a"]}, headers=encoded)
    assert response.status_code == 200
    (line,) = [json.loads(one) for one in lines.getvalue().splitlines() if "judging" in one]
    assert "event_id" not in line
    traces.stop()
    (span,) = tracing.named("POST /filter")
    assert (span.parent, span.trace) == ("", line["trace_id"])


async def test_a_share_of_nothing_takes_none(collector: Collector) -> None:
    traces.start(tracing_to(collector.url, "--traces.sample=0"), "tests")
    with traces.span("work"):
        assert traces.trace_id() == ""
    traces.stop()
    assert collector.spans == []


async def test_spans_that_nobody_takes_are_dropped(collector: Collector) -> None:
    traces.start(tracing_to("http://127.0.0.1:9"), "tests")
    for _ in range(2 * traces.QUEUE):
        with traces.span("work"):
            pass
    traces.stop()
    assert not traces.on()


async def test_a_submission_of_weights_is_a_span(tracing: Collector) -> None:
    b = await bench()
    await b.forward(u1=0.9, u2=0.1)
    await b.step(30)
    submission = await b.newest()
    await wait_until(lambda: tracing.named("submit weights"))
    (span,) = tracing.named("submit weights")
    assert span.attributes == {
        "submission": submission.id,
        "block": submission.block,
        "uids": len(submission.uids),
        "accepted": True,
        "certain": True,
    }


def _answering() -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    app = create_app("test", description="", lifespan=lifespan, health=Health())

    @app.post("/filter")
    async def answer(body: FilterRequest) -> FilterResponse:
        structlog.get_logger("tests").info("judging", texts=len(body.texts))
        return FilterResponse(safe=(True,), scores=(0.0,), active=False)

    return app
