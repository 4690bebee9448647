from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line as a process of its own, in an empty directory, without settings in its environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COREMESH_")}
    clean |= {"COLUMNS": "160", "NO_COLOR": "1"}

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("coremesh")), *words],
            env=clean | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
        )

    return run
