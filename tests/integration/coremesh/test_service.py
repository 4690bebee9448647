"""What every service does: health, clear errors, bounded bodies, signals, exit codes. On a real process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import httpx
import pytest

from devnet.chain.testing import free_port


class Tiny:
    def __init__(self, process: subprocess.Popen[bytes], output: IO[str]) -> None:
        self.process = process
        self._output = output

    def ended(self) -> tuple[int, str]:
        """Exit code and output, once it has ended."""
        code = self.process.wait(timeout=20)
        self._output.seek(0)
        return code, self._output.read()


@contextmanager
def tiny(*flags: str, wait: bool = True) -> Iterator[tuple[Tiny, str]]:
    port = free_port()
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would block the service
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.coremesh.tiny_service", "--http.port", str(port), *flags],
        stdout=output,
        stderr=output,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 20
        while wait:
            try:
                httpx.get(f"{url}/healthz")
                break
            except httpx.HTTPError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield Tiny(process, output), url
    finally:
        process.kill()
        process.wait()
        output.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with tiny("--mesh.token=secret") as (_, found):
        yield found


AUTH = {"authorization": "Bearer secret"}


def test_health_readiness_metrics_and_docs(url: str) -> None:
    assert httpx.get(f"{url}/healthz").json()["status"] == "alive"
    assert httpx.get(f"{url}/readyz").json() == {"ready": True, "checks": {"something": "ok"}}
    metrics = httpx.get(f"{url}/metrics").text
    assert 'coremesh_http_requests_total{route="/readyz",status="200"}' in metrics
    assert 'coremesh_dependency_up{dependency="something"} 1.0' in metrics
    assert httpx.get(f"{url}/docs").status_code == 200


def post(url: str, content: bytes | str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{url}/double", content=content, headers={**AUTH, "content-type": "application/json", **headers}
    )


def test_a_good_request(url: str) -> None:
    assert post(url, '{"number": 4}').json() == {"double": 8}


@pytest.mark.parametrize(
    ("content", "headers", "status", "code", "says"),
    [
        (b'{"number": ', {}, 400, "bad_request", "the body is not valid JSON"),
        (b'{"number": "x"}', {}, 400, "bad_request", "number: input should be a valid integer"),
        (b"{}", {}, 400, "bad_request", "number: field required"),
        (b"[]", {}, 400, "bad_request", "body: input should be a valid dictionary"),
        (b"", {}, 400, "bad_request", "body: field required"),
        (b"number=4", {"content-type": "text/plain"}, 415, "bad_request", "the content type is text/plain"),
        (b'{"number": 4}', {"authorization": "Bearer wrong"}, 401, "unauthorized", "needs the mesh token"),
        (b'{"number": 4}', {"authorization": "secret"}, 401, "unauthorized", "needs the mesh token"),
        (b" " * 1001, {}, 413, "too_long", "the body is over 1000 bytes"),
        (b'{"number": 13}', {}, 502, "no_completion", "nobody knows"),
        (b'{"number": 14}', {}, 429, "busy", "too much"),
        (b"\xff\xfe", {}, 400, "bad_request", ""),
        (b'{"number": ' + b"[" * 480 + b"]" * 480 + b"}", {}, 400, "bad_request", ""),
    ],
)
def test_errors_have_a_code_a_sentence_and_a_remedy(
    url: str, content: bytes, headers: dict[str, str], status: int, code: str, says: str
) -> None:
    answer = post(url, content, **headers)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code)
    assert says in body["message"]
    assert set(body) == {"code", "message", "remedy"}
    assert body["remedy"]
    assert ("retry-after" in answer.headers) == (status == 429)


def test_a_body_sent_in_chunks_is_bounded_too(url: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    answer = httpx.post(
        f"{url}/double", content=chunks(), headers={**AUTH, "content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_long")


def test_the_unexpected_tells_no_secrets(url: str) -> None:
    answer = post(url, '{"number": 15}')
    assert answer.status_code == 500
    assert answer.json()["code"] == "error"
    assert "secret detail" not in answer.text


def test_unknown_routes_and_methods(url: str) -> None:
    assert httpx.get(f"{url}/nothing").json()["code"] == "not_found"
    assert httpx.get(f"{url}/double").status_code == 405


def test_an_unready_service_says_why() -> None:
    with tiny("--tiny.fail=unready") as (_, url):
        answer = httpx.get(f"{url}/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "checks": {"something": "not yet"}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(number: signal.Signals) -> None:
    with tiny() as (service, url):
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(httpx.get(f"{url}/slow", timeout=10)))
        asking.start()
        time.sleep(0.3)
        service.process.send_signal(number)
        asking.join()
        assert [answer.json() for answer in answers] == [{"done": "yes"}]
        code, output = service.ended()
        assert code == 0
        assert "cleaned up" in output


def test_a_dead_loop_ends_the_process_with_1() -> None:
    with tiny("--tiny.fail=loop") as (service, _):
        code, output = service.ended()
        assert code == 1
        assert "the background loop 'work' died" in output
        assert "cleaned up" in output
        record = next(json.loads(line) for line in output.splitlines() if '"background loop died"' in line)
        assert (record["loop"], record["service"], record["level"]) == ("work", "tiny", "critical")
        assert "the loop broke" in json.dumps(record["exception"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tiny.fail=model"], "tiny: there is no model at /nowhere. Give a local path"),
        (
            ["--log.level=loud"],
            "tiny: --log.level: got 'loud'; input should be 'debug', 'info', 'warning' or 'error'",
        ),
        (["--nonsense"], "tiny: --nonsense needs a value"),
        (
            ["--http.port=70000"],
            "tiny: --http.port: got '70000'; input should be less than or equal to 65535",
        ),
    ],
)
def test_a_bad_setting_or_model_exits_with_2_in_one_sentence(flags: list[str], says: str) -> None:
    with tiny(*flags, wait=False) as (service, _):
        code, output = service.ended()
        assert code == 2
        assert says in output
        assert "Traceback" not in output


def test_a_taken_port_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with tiny(f"--http.port={port}", wait=False) as (service, _):
            code, output = service.ended()
            assert code == 2
            assert f"tiny: cannot listen on 127.0.0.1:{port}: Address already in use. Stop what" in output


def test_help_lists_the_settings() -> None:
    with tiny("--help", wait=False) as (service, _):
        code, output = service.ended()
        assert code == 0
        assert "--tiny.fail  how to fail" in output
        assert "--http.port" in output


def test_a_client_that_never_finishes_its_request_is_dropped() -> None:
    with tiny("--http.receive_s", "1") as (_, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(b"POST /double HTTP/1.1\r\nhost: x\r\nx-slow: ")
            assert client.recv(1) == b""
        assert httpx.get(f"{url}/healthz").status_code == 200
