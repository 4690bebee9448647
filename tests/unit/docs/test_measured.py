from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.unit.docs.references import DOCS


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measured", DOCS / "measured.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measured"] = module
    spec.loader.exec_module(module)
    return module


TABLE = """
| metric | value | unit | baseline | ratio |
|---|---|---|---|---|
| weights.fold_vs_original | 0.9766 | us an event | 29.72 | {ratio} |
| weights.redis_mb_100k | 251 | MB |  |  |
"""


@pytest.mark.parametrize(("ratio", "met"), [("30", "yes"), ("29.9", "**no**")])
def test_a_floor_is_met_or_not(measured: ModuleType, ratio: str, met: str) -> None:
    page = "\n".join(measured.lines(TABLE.format(ratio=ratio)))
    assert f"| ≥ 30 | {ratio} | {met} |" in page
    assert "| ≤ 250 | 251 | **no** |" in page


def test_what_was_not_recorded_is_not_met(measured: ModuleType) -> None:
    # The benchmark of the mesh says so itself where packages cannot be had.
    nothing = "| mesh.first_answer_s |  | s |  |  |\n"
    page = "\n".join(measured.lines(TABLE.format(ratio=31) + nothing))
    assert "| ≤ 8 | not recorded | **no** |" in page
    assert "| ≤ 180 | not recorded | **no** |" in page


def test_every_floor_has_a_recorded_row(measured: ModuleType) -> None:
    rows = measured.rows_of(measured.RESULTS.read_text(encoding="utf-8"))
    floors = [floor for section in measured.FLOORS.values() for floor in section]
    assert len(floors) > 25
    assert [floor.metric for floor in floors if floor.measured(rows) is None] == []
