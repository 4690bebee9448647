"""One mesh a directory, whatever is killed."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from coremesh.errors import BadSetting
from coremesh.supervisor.claim import Claim

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from coremesh.supervisor.claim import Claim
with Claim(Path(sys.argv[1])) as claim:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=(claim.fd,))
    print(child.pid, flush=True)
    time.sleep(600)
"""


def holder(directory: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that holds the directory, and its child, which inherits the lock."""
    words = [sys.executable, "-c", HOLDER, str(directory)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def up(directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        "-c",
        "from coremesh.cli import main; main()",
        "up",
        "--dir",
        str(directory),
        *flags,
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COREMESH_")}
    return subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)


def test_a_directory_that_a_mesh_uses_is_refused(tmp_path: Path) -> None:
    process, child = holder(tmp_path)
    try:
        (tmp_path / "coremesh.toml").write_text("# the running mesh's\n")
        done = up(tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"coremesh: a mesh runs in {tmp_path} already, as process {process.pid}. Stop it with Ctrl-C where it was "
            "started, or run another beside it, with a directory and ports of its own: coremesh up --dir DIR --port N "
            "--chain-port N --redis-port N. [bad_setting]\n"
        )
        # What belongs to the other mesh is as it was.
        assert (tmp_path / "coremesh.toml").read_text() == "# the running mesh's\n"
        assert not (tmp_path / "token").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()


def test_a_killed_mesh_leaves_no_lock_behind(tmp_path: Path) -> None:
    process, child = holder(tmp_path)
    os.kill(child, signal.SIGKILL)
    process.kill()
    process.wait()
    with (tmp_path / "processes.lock").open() as lock:
        fcntl.flock(
            lock, fcntl.LOCK_EX
        )  # the child's end is not to be seen otherwise: it is nobody's child now
    said: list[str] = []
    with Claim(tmp_path, said.append):
        assert (tmp_path / "supervisor.lock").read_text() == str(os.getpid())
    with Claim(tmp_path, said.append):  # and again, after a good end
        pass
    assert said == []


def test_what_a_killed_mesh_left_running_is_waited_for(tmp_path: Path) -> None:
    process, child = holder(tmp_path)
    process.kill()
    process.wait()
    said: list[str] = []

    def end(sentence: str) -> None:
        said.append(sentence)
        os.kill(child, signal.SIGKILL)

    with Claim(tmp_path, end):
        pass
    assert said == ["processes of a mesh that was killed are still ending here; waiting for them"]


def test_a_directory_that_cannot_be_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(BadSetting, match="cannot be used: File exists"), Claim(file):
        pass


def test_taken_ports_are_named_with_the_flags_that_change_them(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as other:
        for holding in (one, other):
            holding.bind(("127.0.0.1", 0))
            holding.listen()
        querier, redis = one.getsockname()[1], other.getsockname()[1]
        done = up(tmp_path, "--port", str(querier), "--redis-port", str(redis), "--chain-port", "29944")
    assert done.returncode == 2
    assert f"{redis} (redis)" in done.stderr
    assert f"{querier} (querier)" in done.stderr
    assert "coremesh up --redis-port N" in done.stderr
    assert "--port N; the services take N and the next four. [bad_setting]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "logs").exists()
