"""``coremesh doctor`` on this very machine, with a real Redis, real wallets and real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from redis import Redis

from coremesh.cli.doctor import machine, network, packages
from coremesh.cli.doctor.command import CHECKS, patient
from coremesh.cli.doctor.run import Check, examine_all
from coremesh.cli.findings import Finding, ok
from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph, Neuron
from devnet.wallets import ensure_wallets
from tests.redis_server import RedisServer
from tests.unit.cli.conftest import Cli


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("COREMESH_"):
            monkeypatch.delenv(name)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def codes(found: Iterator[Finding] | list[Finding]) -> list[tuple[str, str]]:
    return [(one.level, one.code) for one in found]


def test_every_check_has_a_deadline_and_a_failing_one_hides_no_other() -> None:
    def hangs(_: object) -> Iterator[Finding]:
        time.sleep(30)
        yield ok("never", "never", "never")

    def breaks(_: object) -> Iterator[Finding]:
        raise RuntimeError("no such device")

    checks = [
        Check("hangs", hangs, deadline_s=0.3),
        Check("breaks", breaks),
        Check("fine", lambda _: [ok("fine", "fine", "fine")]),
    ]
    found = examine_all(patient((), None, ()), checks)
    assert codes(found) == [("fail", "no_answer"), ("warn", "check_failed"), ("ok", "fine")]
    assert "no such device" in found[1].message


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    healthy = patient(("weights",), None, ())
    service = replace(healthy.services[0], packages=("no-such-package",))
    asked = list(packages.installed(replace(healthy, services=(service,))))
    assert (asked[0].level, asked[0].code) == ("fail", "packages")
    assert "no-such-package" in asked[0].message
    assert ".[weights]" in asked[0].remedy
    unasked = list(packages.installed(replace(healthy, services=(service,), asked=False)))
    assert unasked[0].level == "warn"


def test_a_device_that_is_not_there_is_found_without_torch_in_this_process() -> None:
    found = list(packages.gpus(patient(("gating",), None, ("--gating.device=cuda:63",))))
    (missing,) = [one for one in found if one.code == "no_gpu"]
    assert (missing.level, missing.about) == ("fail", "gating.device")
    assert "cuda:63" in missing.message


def test_a_port_that_something_else_has_is_told_from_a_free_one(listener: socket.socket) -> None:
    taken = listener.getsockname()[1]
    found = list(machine.ports(patient(("weights",), None, (f"--http.port={taken}",))))
    assert codes(found) == [("fail", "port")]
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    assert codes(machine.ports(patient(("weights",), None, (f"--http.port={free}",)))) == [("ok", "port")]


def test_a_service_that_does_not_run_while_others_do_is_named(tmp_path: Path) -> None:
    class Alive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"info": {"title": "coremesh gating"}}')

        def log_message(self, format: str, *args: object) -> None:
            pass

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Alive) as server,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        gone = other.getsockname()[1]
        other.close()
        words = (
            f"--mesh.gating_url=http://127.0.0.1:{server.server_port}",
            f"--mesh.weights_url=http://127.0.0.1:{gone}",
        )
        found = list(machine.ports(patient(("gating", "weights"), None, words)))
        server.shutdown()
    assert codes(found) == [("ok", "port"), ("warn", "not_running")]
    assert (
        found[1].message
        == f"nothing listens on 127.0.0.1:{gone}: weights does not run, and others of the mesh do"
    )


def test_redis_is_looked_at(redis_url: str, tmp_path: Path) -> None:
    found = list(network.redis(patient(("weights",), None, (f"--redis.url={redis_url}",))))
    said = {one.code: one for one in found}
    assert said["redis_version"].level == "ok"
    assert said["redis_policy"].level == "ok"
    assert "redis_persistence" in said
    away = list(network.redis(patient((), None, ("--redis.url=redis://me:hunter2@127.0.0.1:1/0",))))
    assert codes(away) == [("fail", "redis_away")]
    assert "hunter2" not in str(away)


def test_a_redis_that_drops_keys_fails(redis_server: RedisServer, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "512mb")
        try:
            found = list(network.redis(patient((), None, (f"--redis.url={redis_url}",))))
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")
    assert ("fail", "redis_policy") in codes(found)


def answering(server: socket.socket, answer: bytes) -> threading.Thread:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", [("ok", "chain")]),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", [("fail", "chain_away")]),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", [("fail", "chain_away")]),
        (
            b"HTTP/1.1 101 Yes\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n",
            [("ok", "chain"), ("fail", "clock_skew")],
        ),
    ],
)
def test_the_chains_node_is_asked_for_a_websocket(
    listener: socket.socket, answer: bytes, wanted: list[tuple[str, str]]
) -> None:
    thread = answering(listener, answer)
    node = f"--chain.network=ws://127.0.0.1:{listener.getsockname()[1]}"
    assert codes(network.chain(patient(("weights",), None, (node,)))) == wanted
    thread.join(5)


def test_a_node_that_says_nothing_is_not_waited_for(listener: socket.socket) -> None:
    with pytest.raises(TimeoutError):
        network.handshake(f"ws://127.0.0.1:{listener.getsockname()[1]}", 0.2)
    with pytest.raises(ValueError, match="finney"):
        network.handshake("http://127.0.0.1", 0.2)


async def test_the_wallet_and_its_place_on_the_subnet(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
) -> None:
    keys = ensure_wallets(tmp_path, ("validator",))["validator"]
    (tmp_path / "validator" / "hotkeys" / "default").chmod(0o644)
    words = (
        *(f"--wallet.path={tmp_path}", "--wallet.name=validator", f"--redis.url={redis_url}"),
        *("--chain.netuid=1",),
    )

    async def look() -> list[tuple[str, str]]:
        whom = patient(("weights",), None, words)
        return codes(await asyncio.to_thread(lambda: list(network.wallet(whom))))

    wallet = [("ok", "wallet"), ("warn", "hotkey_mode"), ("warn", "coldkey")]
    assert await look() == [*wallet, ("warn", "not_synced")]
    for hotkey, permit, wanted in (
        ("5Another", True, ("fail", "not_registered")),
        (keys.hotkey, False, ("fail", "no_permit")),
        (keys.hotkey, True, ("ok", "registered")),
    ):
        await publish(redis_history, hotkey, permit)
        assert await look() == [*wallet, wanted]
    gone = patient(("weights",), None, (*words, "--wallet.hotkey=gone"))
    assert codes(await asyncio.to_thread(lambda: list(network.wallet(gone)))) == [("fail", "bad_wallet")]


async def publish(history: RedisHistory, hotkey: str, permit: bool) -> None:
    neuron = Neuron(uid=0, hotkey=hotkey, coldkey="5Cold", stake=5000.0, permit=permit)
    metagraph = Metagraph(netuid=1, block=7, time_ms=int(time.time() * 1000), neurons=(neuron,))
    lease = await history.acquire("weights", "test", timedelta(seconds=30))
    assert lease is not None
    await history.publish(metagraph, None, lease)
    await history.release(lease)


def test_the_whole_examination_as_json(cli: Cli) -> None:
    done = cli("doctor", "--json", "--service", "weights", "--redis.url=redis://127.0.0.1:1/0")
    assert (done.returncode, done.stderr) == (1, "")
    document = json.loads(done.stdout)
    assert document["ok"] is False
    found = [Finding(**one) for one in document["findings"]]
    assert ("fail", "redis_away") in codes(found)
    assert ("fail", "bad_wallet") in codes(found)
    assert [one.about for one in found if one.level != "ok" and not one.remedy] == []
    assert {check.name for check in CHECKS} >= {"python", "packages", "redis", "chain", "wallet", "clock"}


def test_the_command_line_never_imports_torch() -> None:
    heavy = ("torch", "transformers", "bittensor")
    code = f"import sys, coremesh.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
