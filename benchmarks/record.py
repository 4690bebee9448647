"""Run benchmarks and write their rows, with the machine they ran on, into benchmarks/RESULTS.md.

    python -m benchmarks.record gating weights …

Each module of a benchmark has a block of its own, with the time it began. A row is written as soon as it is printed:
what ends early leaves the rows it had, and says so. Blocks of modules that were not run stay as they were. A module
that fails does not keep the others from running; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
BENCHES: dict[str, tuple[str, ...]] = {
    "fanout": ("benchmarks.fanout",),
    "reward": ("benchmarks.reward", "benchmarks.reward_service"),
    "gating": ("benchmarks.gating", "benchmarks.gating_score", "benchmarks.gating_batches"),
    "weights": ("benchmarks.weights",),
    "mesh": ("benchmarks.mesh",),
    # On a machine with a GPU, torch, transformers and numpy; nothing else is asked for.
    "gpu": ("benchmarks.gpu_reward", "benchmarks.gpu_gating"),
}
HEAD = """# Results

The rows of the last run of each benchmark, written by `python -m benchmarks.record`; above each table what was run, and
when. A ratio over 1 is better than the baseline of the same run; empty where there is no baseline. Machines are shared
and noisy: read ratios, not times.
"""
STOP_S = 30
COLUMNS = ("metric", "value", "unit", "baseline", "ratio")


@dataclass
class Run:
    """One run of one module: the rows so far, and how it ended (empty while it runs)."""

    module: str
    rows: list[dict[str, object]] = field(default_factory=list)
    ended: str = ""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def block(self) -> str:
        """For the results, beginning with the module's name."""
        how = self.ended or "not finished"
        lines = [
            f"`{self.module}`: {self.began:%Y-%m-%d %H:%M} UTC, {_machine()}, load {self.load:.1f} before, {how}.",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|---|---|---|---|---|",
        ]
        for row in self.rows:
            lines.append(f"| {' | '.join(_cell(row.get(key)) for key in COLUMNS)} |")
        return "\n".join(lines) + "\n"


class Results:
    """The file of results: sections of blocks, each replaced by itself."""

    def __init__(self, path: Path, benches: Mapping[str, Sequence[str]]) -> None:
        self._path = path
        self._benches = benches

    def put(self, name: str, run: Run) -> None:
        """Write a module's block in place of its last one. Without rows there is nothing to write."""
        if not run.rows:
            return
        sections = self._sections()
        blocks = _blocks(sections.get(name, "")) | {run.module: run.block()}
        kept = [blocks[module] for module in self._benches[name] if module in blocks]
        sections[name] = f"## {name}\n" + "".join(f"\n{block}" for block in kept)
        text = HEAD + "".join(f"\n{sections[key]}" for key in self._benches if key in sections)
        beside = self._path.with_suffix(".part")
        beside.write_text(text)
        beside.replace(self._path)

    def _sections(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        parts = re.split(r"^(?=## )", self._path.read_text(), flags=re.M)[1:]
        return {part.split()[1]: part.rstrip() + "\n" for part in parts}


def _blocks(section: str) -> dict[str, str]:
    """A section's blocks by module. Rows that no module's name stands above are left out: they are of another run."""
    parts = re.split(r"^(?=`[\w.]+`: )", section, flags=re.M)[1:]
    return {part[1 : part.index("`", 1)]: part.rstrip() + "\n" for part in parts}


def record(results: Results, name: str, module: str) -> bool:
    """Run a module and write its rows as they come; whether it ended well."""
    run = Run(module)
    start = time.monotonic()
    try:
        with _running(module) as lines:
            for line in lines:
                if line.strip():
                    run.rows.append(_row(line))
                    results.put(name, run)
        run.ended = f"{time.monotonic() - start:.0f} s"
    except (subprocess.CalledProcessError, ValueError) as error:
        code = getattr(error, "returncode", None)
        why = "it printed what is no row" if code is None else f"exit code {code}"
        run.ended = f"**ended early after {time.monotonic() - start:.0f} s: {why}**"
        print(f"{module}: {why}", file=sys.stderr)
        return False
    except BaseException:
        run.ended = f"**interrupted after {time.monotonic() - start:.0f} s**"
        raise
    finally:
        results.put(name, run)
    return True


def _row(line: str) -> dict[str, object]:
    """Raises ValueError for what is no row."""
    row = json.loads(line)
    if not isinstance(row, dict) or not row.keys() >= set(COLUMNS):
        raise ValueError(f"no row: {line}")
    return row


@contextmanager
def _running(module: str) -> Iterator[Iterator[str]]:
    """A module's lines of standard output. Raises CalledProcessError when it ends otherwise than well."""
    command = [sys.executable, "-m", module]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield iter(process.stdout)
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command)
    finally:
        if process.poll() is None:
            # As Ctrl-C does: the module stops what it started itself.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


def main(benches: Mapping[str, Sequence[str]] = BENCHES, path: Path = RESULTS) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=[*benches])
    names = parser.parse_args().names
    # So that a run that is ended by `timeout` or a shutdown takes the module with it, and says so in the file.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    results = Results(path, benches)
    well = [record(results, name, module) for name in names for module in benches[name]]
    return 0 if all(well) else 1


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cache
def _machine() -> str:
    model = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*: (.+)", info.read_text())):
        model = found[1].strip()
    return f"{os.cpu_count()} cores of {model}{_gpus()}, Python {platform.python_version()}"


def _gpus() -> str:
    try:
        ask = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "".join(f", {line.strip()}" for line in found if line.strip())


if __name__ == "__main__":
    sys.exit(main())
