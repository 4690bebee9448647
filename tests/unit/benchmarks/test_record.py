"""What a recorder of benchmarks leaves in its file, whatever becomes of the modules it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.record import BENCHES, RESULTS, Results, record

ONE, TWO = "one_of_record_test", "two_of_record_test"
BOTH = {"both": (ONE, TWO)}


def print_row(metric: str) -> str:
    return f"""print('{{"metric": "{metric}", "value": 1.5, "unit": "x", "baseline": null, "ratio": 2}}', flush=True)"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the modules are looked for, and the file lies."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(RESULTS.parent.parent)]))
    return tmp_path


def write(place: Path, module: str, *lines: str) -> None:
    (place / f"{module}.py").write_text("\n".join(lines) + "\n")


def test_the_rows_of_all_modules_are_in_one_section_each_under_its_own_time(place: Path) -> None:
    results = Results(place / "RESULTS.md", BOTH)
    write(place, ONE, print_row("both.a"))
    write(place, TWO, print_row("both.b"))
    assert record(results, "both", TWO)
    assert record(results, "both", ONE)
    text = (place / "RESULTS.md").read_text()
    assert text.count("## both") == 1
    assert text.index(f"`{ONE}`: 20") < text.index("| both.a | 1.5 | x |  | 2 |") < text.index(f"`{TWO}`: 20")
    assert text.index(f"`{TWO}`: 20") < text.index("| both.b |")
    assert "early" not in text
    assert "not finished" not in text


def test_rows_printed_before_a_failure_stay_and_say_so_and_others_are_untouched(place: Path) -> None:
    results = Results(place / "RESULTS.md", BOTH)
    write(place, ONE, print_row("both.a"), print_row("both.old"))
    write(place, TWO, print_row("both.b"))
    assert record(results, "both", ONE)
    assert record(results, "both", TWO)
    before = (place / "RESULTS.md").read_text()
    write(place, ONE, print_row("both.a"), "raise SystemExit(3)")
    assert not record(results, "both", ONE)
    after = (place / "RESULTS.md").read_text()
    assert "both.old" not in after
    assert "exit code 3" in after
    assert after[after.index(f"`{TWO}`") :] == before[before.index(f"`{TWO}`") :]


def test_a_module_that_prints_no_row_leaves_the_last_ones_with_their_time(place: Path) -> None:
    results = Results(place / "RESULTS.md", BOTH)
    write(place, ONE, print_row("both.a"))
    assert record(results, "both", ONE)
    before = (place / "RESULTS.md").read_text()
    for line in ("raise SystemExit(1)", "print('no row')", "print(7)", """print('{"metric": "both.a"}')"""):
        write(place, ONE, line)
        assert not record(results, "both", ONE)
        assert (place / "RESULTS.md").read_text() == before


def test_rows_that_no_modules_name_stands_above_do_not_stay_beside_new_ones(place: Path) -> None:
    file = place / "RESULTS.md"
    rest = "## other\n\n2026-01-01, 10 s.\n\n| metric |\n|---|\n| other.c |\n"
    file.write_text(f"# Results\n\n## both\n\n2026-01-01, 10 s.\n\n| metric |\n|---|\n| both.old |\n\n{rest}")
    write(place, ONE, print_row("both.a"))
    assert record(Results(file, BOTH | {"other": ("nothing",)}), "both", ONE)
    assert "both.old" not in file.read_text()
    assert file.read_text().endswith(rest)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_its_rows_and_nothing_that_runs(
    place: Path, number: signal.Signals
) -> None:
    write(
        place,
        ONE,
        "import os, pathlib, time",
        print_row("both.a"),
        f"pathlib.Path({str(place / 'pid')!r}).write_text(str(os.getpid()))",
        "time.sleep(600)",
    )
    script = textwrap.dedent(f"""
        from pathlib import Path
        from benchmarks.record import main
        raise SystemExit(main({{"both": ({ONE!r},)}}, Path({str(place / "RESULTS.md")!r})))
    """)
    command = [sys.executable, "-c", script, "both"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    file = place / "RESULTS.md"
    while not (file.exists() and (place / "pid").exists() and (place / "pid").read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    assert "not finished" in file.read_text()
    process.send_signal(number)
    assert process.wait(60) != 0
    text = file.read_text()
    assert "both.a" in text
    assert "interrupted after" in text
    with pytest.raises(ProcessLookupError):
        os.kill(int((place / "pid").read_text()), 0)


def test_every_module_of_a_benchmark_exists() -> None:
    for modules in BENCHES.values():
        for module in modules:
            assert (RESULTS.parent.parent / f"{module.replace('.', '/')}.py").is_file()
