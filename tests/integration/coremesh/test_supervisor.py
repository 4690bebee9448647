"""The supervisor starts, restarts and stops real processes, and leaves none behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coremesh.errors import BadSetting
from coremesh.supervisor.process import Plan
from coremesh.supervisor.supervisor import StartFailed, Supervisor
from tests.integration.coremesh.test_service import free_port
from tests.wait import wait_until


def service(name: str, port: int, *flags: str) -> Plan:
    module = "tests.integration.coremesh.tiny_service"
    return Plan(
        name=name,
        command=(sys.executable, "-m", module, "--http.port", str(port), *flags),
        ready=f"http://127.0.0.1:{port}/readyz",
        port=port,
        stop_s=5.0,
    )


def talker(name: str, code: str) -> Plan:
    return Plan(name=name, command=(sys.executable, "-u", "-c", code), ready="", stop_s=1.0)


def alive(pid: int) -> bool:
    try:
        return b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


# A process with a child of its own, which ignores SIGTERM.
PARENT = """
import subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code])
print("child", child.pid, "ready", flush=True)
time.sleep(600)
"""


async def test_starts_in_order_and_stops_without_a_trace(tmp_path: Path) -> None:
    order: list[str] = []
    plans = [talker("chain", PARENT), service("gating", free_port()), service("querier", free_port())]
    supervisor = Supervisor(plans, tmp_path, lambda: None)

    def note() -> None:
        order.extend(p.plan.name for p in supervisor.processes if p.ready and p.plan.name not in order)

    supervisor._on_change = note
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    await wait_until(lambda: supervisor.all_ready_s is not None, timeout=60)
    assert order == ["chain", "gating", "querier"]
    pids = [p.process.pid for p in supervisor.processes if p.process]
    pids.append(int((tmp_path / "chain.log").read_text().split()[1]))
    assert len(pids) == 4
    assert all(alive(pid) for pid in pids)
    stop.set()
    await asyncio.wait_for(running, 30)
    await wait_until(lambda: not any(alive(pid) for pid in pids), timeout=5, why="all are gone")


async def test_restarts_what_is_killed(tmp_path: Path) -> None:
    supervisor = Supervisor([service("gating", free_port())], tmp_path)
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    await wait_until(lambda: supervisor.all_ready_s is not None, timeout=60)
    (supervised,) = supervisor.processes
    assert supervised.process is not None
    first = supervised.process.pid
    os.kill(first, signal.SIGKILL)
    await wait_until(
        lambda: supervised.ready and supervised.process and supervised.process.pid != first, timeout=60
    )
    assert supervised.restarts == 1
    stop.set()
    await asyncio.wait_for(running, 30)


async def failure(supervisor: Supervisor) -> StartFailed:
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(supervisor.run(asyncio.Event()), 60)
    (error,) = caught.value.exceptions
    assert isinstance(error, StartFailed)
    return error


async def test_a_bad_setting_stops_everything_in_one_sentence(tmp_path: Path) -> None:
    error = await failure(Supervisor([service("gating", free_port(), "--tiny.fail=model")], tmp_path))
    assert error.exit_code == 2
    assert error.message == (
        "gating cannot start (exit code 2): tiny: there is no model at /nowhere. "
        "Give a local path with config.json, tokenizer.json and model.safetensors."
    )
    assert error.remedy == f"Its log is {tmp_path / 'gating.log'}."


async def test_what_keeps_dying_is_given_up(tmp_path: Path) -> None:
    supervisor = Supervisor([talker("miners", "print('the roof is on fire'); raise SystemExit(7)")], tmp_path)
    error = await failure(supervisor)
    assert error.message == "miners keeps dying (exit code 7): the roof is on fire"


async def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        supervisor = Supervisor([service("gating", port)], tmp_path)
        with pytest.raises(BadSetting, match=f"port {port}, which gating needs, is taken"):
            await supervisor.run(asyncio.Event())
    assert not (tmp_path / "gating.log").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_processes_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    code = f"""
import asyncio
from pathlib import Path
from coremesh.supervisor.process import Plan
from coremesh.supervisor.supervisor import Supervisor
import sys
child = "import os, time; print(os.getpid(), 'ready', flush=True); time.sleep(600)"
plan = Plan(name="miners", command=(sys.executable, "-u", "-c", child), ready="")
asyncio.run(Supervisor([plan], Path({str(tmp_path)!r})).run(asyncio.Event()))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "miners.log"
    deadline = time.monotonic() + 30
    while not (log.exists() and "ready" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int(log.read_text().split()[0])
    assert alive(pid)
    process.kill()
    process.wait()
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_what_can_wait_steps_back_for_the_others(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpriority(os.PRIO_PROCESS, 0), 'ready', flush=True); time.sleep(600)"
    plans = [talker("miners", code), replace(talker("weights", code), nice=3)]
    supervisor = Supervisor(plans, tmp_path)
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    await wait_until(lambda: all(process.ready for process in supervisor.processes))
    own, lowered = (int(process.last_words().split()[0]) for process in supervisor.processes)
    assert lowered == min(19, own + 3)
    stop.set()
    await running
