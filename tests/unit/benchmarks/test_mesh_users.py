"""The users of the mesh's benchmark: what they hear, how long they waited, and what becomes of those unheard."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import mesh_litellm
from benchmarks.mesh import free_ports
from benchmarks.mesh_load import Load, Served, inference, load, quantile_of
from benchmarks.mesh_processes import cpu_s, processes
from benchmarks.mesh_user import NotAnswered, User


class Server:
    """Answers each request with its own body and how it came, and may hang up after an answer, or before one."""

    def __init__(self) -> None:
        self.url = ""
        self.connections = 0
        self.hang_up_after = False
        self.hang_up_before = False
        self.status = b"200 OK"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                body = await reader.readexactly(length)
                if self.hang_up_before:
                    return
                # In two chunks, as a server may send what it has.
                chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:3], body[3:]))
                writer.write(
                    b"HTTP/1.1 %b\r\ntransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % (self.status, chunks)
                )
                await writer.drain()
                if self.hang_up_after:
                    return
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/inference"
    try:
        yield server
    finally:
        listening.close()


async def test_a_user_keeps_its_connection_and_hears_whole_answers() -> None:
    async with serving() as server:
        user = User(server.url)
        for body in inference(["a", "b"], top_k=1):
            heard = await user.ask(body)
            assert (heard.status, heard.body) == (200, body)
            assert heard.wall_s > 0
        assert server.connections == 1
        user.close()


async def test_a_connection_that_was_closed_while_idle_is_replaced() -> None:
    async with serving() as server:
        user = User(server.url)
        server.hang_up_after = True
        for count in (1, 2):
            assert (await user.ask(b"{}    ")).status == 200
            assert server.connections == count
            await asyncio.sleep(0.05)
        server.hang_up_before = True
        with pytest.raises(NotAnswered):
            await user.ask(b"{}    ")
        user.close()


async def test_a_load_counts_what_was_answered_and_what_was_not() -> None:
    async with serving() as server:
        found = await load(server.url, [b'{"a": 1}'], users=3, seconds=0.1)
        assert found.failed == 0
        assert found.rps == pytest.approx(found.in_time / 0.1)
        # A user has at most one request under way when the time is over.
        assert 0 <= len(found.served) - found.in_time <= 3
        assert server.connections == 3
        server.status = b"503 Service Unavailable"
        refused = await load(server.url, [b'{"a": 1}'], users=3, seconds=0.1)
        assert not refused.served
        assert refused.failed >= 3


def test_a_request_that_hangs_at_the_end_does_not_make_the_others_slow() -> None:
    answers = [Served(0.1, b"{}")] * 100
    assert Load(answers, 1, seconds=45.0, asked_s=15.0, in_time=100).rps == pytest.approx(100 / 15)


async def test_users_of_a_server_that_is_away_do_not_keep_the_processor_busy() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = await load(f"http://127.0.0.1:{unused.getsockname()[1]}/", [b"{}"], users=2, seconds=0.2)
    assert not found.served
    # A user waits 50 ms after a failure, however fast the machine is.
    assert 2 <= found.failed <= 2 * 5


def test_overhead_is_what_neither_miners_nor_models_took() -> None:
    timings = {"gating": 0.01, "filter": 0.02, "reward": 0.03, "query": 0.25, "total": 0.32, "models": 0.05}
    body = {"completions": [{"latency_s": 0.1}, {"latency_s": 0.2}], "timings": timings}
    one = Served(0.34, json.dumps(body).encode())
    assert one.overhead_s == pytest.approx(0.34 - 0.2 - 0.06)
    assert one.own_s == pytest.approx(0.34 - 0.2 - 0.05)
    assert one.outside_s == pytest.approx(0.02)
    assert one.asking_s == pytest.approx(0.05)


def test_a_quantile_is_of_what_came_in_between() -> None:
    before = {0.1: 5.0, 0.2: 5.0, math.inf: 5.0}
    after = {0.1: 5.0 + 50, 0.2: 5.0 + 100, math.inf: 5.0 + 100}
    assert quantile_of(before, after, 0.25) == pytest.approx(0.05)
    assert quantile_of(before, after, 0.75) == pytest.approx(0.15)
    assert math.isnan(quantile_of(after, after, 0.5))
    assert quantile_of({}, {0.1: 1.0, math.inf: 2.0}, 0.99) == 0.1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are read from /proc")
def test_the_processes_of_a_mesh_have_names_and_cost_something() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60", "devnet", "miners"])
    try:
        while "miners" not in (found := processes(os.getpid())).values():
            time.sleep(0.01)
        assert found[os.getpid()] == "supervisor"
        assert found[child.pid] == "miners"
        before = cpu_s(found)["supervisor"]
        while time.process_time() < before + 0.03:
            pass
        assert cpu_s(found)["supervisor"] > before > 0
    finally:
        for pid in set(processes(child.pid)):
            os.kill(pid, signal.SIGKILL)
        child.wait()


async def test_a_litellm_that_cannot_be_started_is_not_available(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    first = free_ports(2)
    for content, why in ((None, "cannot be started"), ("#!/bin/sh\nexit 7\n", "ended with 7")):
        if content is not None:
            script = python.parent / "litellm"
            script.write_text(content)
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        with pytest.raises(mesh_litellm.NotAvailable, match=why):
            async with mesh_litellm.proxy(
                python, tmp_path, ports=(first, first + 1), latency_s=0, text="hello"
            ):
                pass
    # The upstream is gone with it.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", first + 1))


def test_the_upstream_leaves_signals_to_the_benchmark() -> None:
    before = signal.getsignal(signal.SIGINT)
    server = mesh_litellm._Upstream(
        mesh_litellm.uvicorn.Config(mesh_litellm.upstream(0, "x"), port=free_ports(1), log_config=None)
    )
    with server.capture_signals():
        assert signal.getsignal(signal.SIGINT) is before
