"""Each image has what its service, and the command line within it, import."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.docker.requirements import requirements

ROOT = Path(__file__).parents[3]

# What the image lacks cannot be imported, though the tests' environment has it.
WITHOUT = """
import importlib, importlib.abc, sys
lacking = set(sys.argv[1].split(","))
class Lacking(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in lacking:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Lacking())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def closure(wanted: list[str]) -> set[str]:
    """The distributions that installing ``wanted`` brings, by their canonical names."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(one) for one in wanted]
    while todo:
        one = todo.pop()
        for extra in ("", *one.extras):
            key = (canonicalize_name(one.name), extra)
            if key in found:
                continue
            found.add(key)
            for text in importlib.metadata.requires(one.name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    todo.append(needed)
    return {name for name, _ in found}


@pytest.mark.parametrize(
    ("extras", "modules"),
    [
        ("querier", ["coremesh.cli", "services.querier.__main__"]),
        ("weights", ["coremesh.cli", "services.weights.__main__"]),
        ("devnet querier", ["coremesh.cli", "devnet.__main__", "miner.__main__"]),
        ("gating reward", ["coremesh.cli", "services.gating.__main__", "services.reward.__main__"]),
    ],
)
def test_an_image_has_what_is_imported_in_it(extras: str, modules: list[str]) -> None:
    has = closure(requirements(ROOT / "pyproject.toml", extras.split()))
    assert {"redis", "uvicorn", "pydantic-core"} <= has
    lacking = [
        top
        for top, owners in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & {*has, "coremesh"}
    ]
    assert "pytest" in lacking
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(lacking), *modules], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
