from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.docs.references import DOCS, ROOT


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as the code of today gives them, and in ``openapi`` each service's OpenAPI document."""
    directory = tmp_path_factory.mktemp("docs")
    (directory / "openapi").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COREMESH_")}
    done = subprocess.run(
        [
            *(sys.executable, str(DOCS / "generate.py"), "--out", str(directory)),
            *("--openapi", str(directory / "openapi")),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="session")
def openapi(fresh: Path) -> Path:
    return fresh / "openapi"
