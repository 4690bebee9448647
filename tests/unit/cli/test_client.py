from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from coremesh.cli.client import Client, Refused


class Refusing(BaseHTTPRequestHandler):
    """Refuses everything, with an error of its own or with nothing that is one."""

    def do_GET(self) -> None:
        error = {"code": "bad_uid", "message": "there is no uid 9", "remedy": "GET /scores lists the uids."}
        body = json.dumps(error if self.path == "/explain/9" else ["what?"]).encode()
        self.send_response(404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Client]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    # With a slash at the end, which services take as well.
    monkeypatch.setenv("COREMESH_MESH_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/")
    try:
        with Client(None) as made:
            yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_a_service_refuses_keeps_its_code_and_remedy(client: Client) -> None:
    assert not client.urls["weights"].endswith("/")  # a path follows: //scores is nothing that a service has
    with pytest.raises(Refused) as told:
        client.get("weights", "/explain/9")
    assert told.value.as_dict() == {
        "code": "bad_uid",
        "message": "there is no uid 9",
        "remedy": "GET /scores lists the uids.",
    }
    with pytest.raises(Refused) as told:
        client.get("weights", "/other")
    assert (told.value.code, told.value.message) == ("refused", "the answer was 404")


def test_what_does_not_answer_and_what_is_something_else_are_said(client: Client) -> None:
    client.urls = {"gating": "http://127.0.0.1:1", "weights": client.urls["weights"]}
    assert client.status()["services"] == [
        {
            "name": "gating",
            "url": "http://127.0.0.1:1",
            "answers": False,
            "ready": False,
            "checks": {"gating": "gating does not answer: no connection"},
        },
        {
            "name": "weights",
            "url": client.urls["weights"],
            "answers": False,
            "ready": False,
            "checks": {"weights": "weights is not what answers there"},
        },
    ]
