"""Run benchmarks and write their rows, with the machine they ran on, into benchmarks/RESULTS.md.

    python -m benchmarks.record gating weights …

Sections of benchmarks that are not named keep the rows of their last run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
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

The rows of the last run of each benchmark, written by `python -m benchmarks.record`. A ratio over 1 is better than
the baseline of the same run; empty where there is no baseline. Machines are shared and noisy: read ratios, not times.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*BENCHES])
    names = parser.parse_args().names
    sections = _sections()
    for name in names:
        rows: list[dict[str, object]] = []
        start = time.monotonic()
        load = os.getloadavg()[0]
        for module in BENCHES[name]:
            done = subprocess.run([sys.executable, "-m", module], stdout=subprocess.PIPE, text=True)
            rows += [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
            if done.returncode:
                print(f"{module} ended with exit code {done.returncode}", file=sys.stderr)
                return 1
        sections[name] = _section(name, rows, time.monotonic() - start, load)
        RESULTS.write_text(HEAD + "".join(f"\n{sections[key]}" for key in BENCHES if key in sections))
    return 0


def _section(name: str, rows: list[dict[str, object]], seconds: float, load: float) -> str:
    lines = [f"## {name}", ""]
    lines += [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_machine()}, load {load:.1f} before, {seconds:.0f} s.",
        "",
    ]
    lines += ["| metric | value | unit | baseline | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [_cell(row.get(key)) for key in ("metric", "value", "unit", "baseline", "ratio")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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


def _sections() -> dict[str, str]:
    if not RESULTS.exists():
        return {}
    parts = re.split(r"^(?=## )", RESULTS.read_text(), flags=re.M)[1:]
    return {part.split()[1]: part.rstrip() + "\n" for part in parts}


if __name__ == "__main__":
    sys.exit(main())
