"""Every command: JSON on request, errors in a sentence, a clean end when the reader goes away or Ctrl-C comes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from rich.console import Console

from coremesh.cli.client import refused
from coremesh.cli.main import app
from coremesh.command import exit_code
from coremesh.progress import progress, waiting
from tests.unit.cli.conftest import Cli

ROOT = Path(__file__).parents[3]

WITHOUT_JSON = {
    "miner": "a service: it prints nothing on standard output, and logs JSON with --log-format json",
}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    for name, one in getattr(command, "commands", {}).items():
        if hasattr(one, "commands"):
            yield from leaves(one, (*path, name))
        else:
            yield " ".join((*path, name)), one


COMMANDS = dict(leaves(typer.main.get_command(app)))


def takes(command: Any) -> set[str]:
    return {option for parameter in command.params for option in getattr(parameter, "opts", ())}


def told_of_itself(name: str) -> str:
    """The options of a command that becomes another process, as the page made of its help has them."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    return page.split(f"\n## coremesh {name}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_json_on_request(name: str) -> None:
    if name in WITHOUT_JSON:
        assert len(WITHOUT_JSON[name]) > 20
        return
    assert "--json" in takes(COMMANDS[name]) or "--json" in told_of_itself(name)


def test_the_commands_are_all_there() -> None:
    wanted = {"up", "status", "ask", "scores", "weights", "replay", "config check", "doctor", "keys create"}
    assert wanted <= set(COMMANDS)
    assert set(WITHOUT_JSON) <= set(COMMANDS)


AWAY = {"COREMESH_MESH_" + name + "_URL": "http://127.0.0.1:1" for name in ("QUERIER", "WEIGHTS", "GATING")}


@pytest.mark.parametrize("words", [("scores",), ("weights",), ("ask", "Why?"), ("explain", "1")])
def test_an_error_is_a_sentence_a_remedy_and_a_code(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words, **AWAY)
    assert (done.returncode, done.stdout) == (4, "")
    line = r"coremesh: the \w+ service does not answer at http://127\.0\.0\.1:1: no connection\. Is the mesh up\?"
    assert re.fullmatch(line + r" .* \[service_unavailable\]\n", done.stderr), done.stderr
    as_json = cli(*words, "--json", **AWAY)
    assert as_json.returncode == 4
    assert json.loads(as_json.stdout).keys() == {"code", "message", "remedy"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("up", "--prot", "3"),
            r"coremesh: No such option: --prot.* `coremesh up --help` says .* \[usage\]\n",
        ),
        (("scroes",), r"coremesh: No such command 'scroes'.* \[usage\]\n"),
        (
            ("keys", "create"),
            r"coremesh: Missing argument 'NAME'\. `coremesh keys create --help` .* \[usage\]\n",
        ),
        (("up", "--tempo", "x"), r"coremesh: Invalid value for '--tempo': .* \[usage\]\n"),
        (("config", "--redis.url=http://x"), r"coremesh: --redis\.url: .* \[bad_setting\]\n"),
        (
            ("config", "--neuron.alpha=1"),
            r"coremesh: flag --neuron\.alpha: neither the original .* \[bad_setting\]\n",
        ),
        (("history", "export"), r"coremesh: .* --to\. `coremesh history export --help` .* \[usage\]\n"),
        (
            ("history", "export", "--to=x", "--from=yesterday"),
            r"coremesh: argument --from: 'yesterday' is no time; .* \[usage\]\n",
        ),
        (("backtest", "--epoch-blocks=0"), r"coremesh: .*'0' is no whole number from 1 on\. .* \[usage\]\n"),
        (("config", "--mock"), r"coremesh: --mock was an option of the original .* \[bad_setting\]\n"),
    ],
)
def test_a_wrong_line_is_told_in_one(cli: Cli, words: tuple[str, ...], said: str) -> None:
    done = cli(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(said, done.stderr), done.stderr


@pytest.mark.parametrize("flag", [["--config=mine.toml"], ["--config", "mine.toml"], []])
@pytest.mark.parametrize(
    "words",
    [
        ("reward", "compare"),
        ("replay",),
        ("history", "export", "--to=out"),
        ("explain", "1", "--offline"),
        ("backtest",),
    ],
)
def test_a_command_reads_the_settings_file_that_it_was_given(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], flag: list[str]
) -> None:
    (tmp_path / ".devnet").mkdir()
    for file, port in ((".devnet/coremesh.toml", 1), ("mine.toml", 2)):
        (tmp_path / file).write_text(f'[redis]\nurl = "redis://127.0.0.1:{port}/0"\n')
    ended = cli(*words, *flag)
    # Not 1: a job must tell what differs from what could not be looked at.
    assert ended.returncode == 4
    assert f"127.0.0.1:{2 if flag else 1}" in ended.stderr


def test_a_fault_shows_no_stack_trace(cli: Cli, tmp_path: Path) -> None:
    done = cli("status", "--config", str(tmp_path), "--json")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    from coremesh.cli import errors

    fault = errors.Fault(ValueError("two\nlines"))
    assert (fault.code, fault.message) == ("fault", "ValueError: two lines")


@pytest.mark.parametrize("words", [("config",), ("config", "--json"), ("config", "check", "--json")])
def test_a_reader_that_goes_away_ends_it_without_a_word(words: tuple[str, ...], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("coremesh")), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("COREMESH_")},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) in (1, 141)
    process.stderr.close()


@pytest.mark.parametrize("runner", [[], ["-m", "coremesh.command", "tests.unit.cli.sleeper"]])
def test_ctrl_c_ends_it_without_a_word(runner: list[str], tmp_path: Path) -> None:
    words = runner or ["-c", "from coremesh.command import quietly; import sys, time\n" + WAIT]
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "")


WAIT = """
def work():
    print("waiting", flush=True)
    time.sleep(30)
sys.exit(quietly(work))
"""


def test_a_module_becomes_the_process_with_its_words_and_its_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "coremesh.command", "services.reward", "compare", "--nonsense"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "--nonsense" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_the_shell(cli: Cli, shell: str) -> None:
    script = cli("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.returncode == 0, script.stderr
    assert "_COREMESH_COMPLETE=complete_" + shell in script.stdout
    words = {"COMP_WORDS": "coremesh conf", "COMP_CWORD": "1"}
    if shell != "bash":
        words = {"_TYPER_COMPLETE_ARGS": "coremesh conf", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = cli(_COREMESH_COMPLETE=f"complete_{shell}", **words)
    assert "config" in done.stdout


@pytest.mark.parametrize(
    ("words", "wanted", "unwanted"),
    [
        ("coremesh replay --fr", ["--from-parquet"], ["--json"]),
        ("coremesh replay -", ["--json", "--chain", "--from-parquet", "--help"], ["--weights.alpha"]),
        ("coremesh backtest --json --", ["--rule", "--png", "--epoch-blocks"], []),
        ("coremesh backtest --rule x --weights.al", ["--weights.alpha"], []),
        ("coremesh history export --t", ["--to", "--texts", "--traces.endpoint"], ["--until"]),
        ("coremesh gating evaluate --new", ["--new-prompts"], []),
        ("coremesh reward compare --j", ["--json"], []),
        ("coremesh verify --hot", ["--hotkey"], []),
        ("coremesh miner --back", ["--backend"], []),
        ("coremesh doctor --chain.", ["--chain.network", "--chain.netuid"], ["--service"]),
        ("coremesh config check --redis.u", ["--redis.url"], []),
        ("coremesh explain --", ["--offline", "--sign"], ["--redis.url"]),
        ("coremesh up --ch", ["--chain-port"], []),
    ],
)
def test_every_flag_is_completed(cli: Cli, words: str, wanted: list[str], unwanted: list[str]) -> None:
    at = str(len(words.split()) - 1)
    found = cli(_COREMESH_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=at).stdout.split()
    assert set(wanted) <= set(found)
    assert not set(unwanted) & set(found)


def test_progress_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    silent = Console(file=io.StringIO())
    with progress("working", 3, silent) as advance, waiting("waiting", silent):
        advance(2)
    assert silent.file.getvalue() == ""  # type: ignore[attr-defined]
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress("working", 3, terminal) as advance:
        advance(2)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "working" in shown
    assert "2/3" in shown
    monkeypatch.setattr(sys, "argv", ["replay", "--json"])
    for_programs = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress("working", 3, for_programs) as advance, waiting("waiting", for_programs):
        advance(2)
    assert for_programs.file.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [
        (503, "history_unavailable", 4),
        (504, "deadline_exceeded", 4),
        (404, "not_found", 1),
        (500, "fault", 1),
    ],
)
def test_a_service_that_cannot_look_is_no_finding(status: int, code: str, ends: int) -> None:
    error = refused({"code": code, "message": "said so", "remedy": "Wait."}, status)
    assert (error.code, exit_code(error)) == (code, ends)
