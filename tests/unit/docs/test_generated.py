from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.docs.references import GENERATED, ROOT, SECTIONS, text


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", GENERATED)
def test_a_generated_page_is_what_the_code_gives(fresh: Path, page: str) -> None:
    wanted = (fresh / page).read_text(encoding="utf-8")
    assert text(page) == wanted, "run: python docs/generate.py"


def test_the_flags_for_the_shell_are_those_of_the_commands(fresh: Path) -> None:
    kept = (ROOT / "coremesh/cli/flags.json").read_text(encoding="utf-8")
    assert kept == (fresh / "flags.json").read_text(encoding="utf-8"), "run: python docs/generate.py"


def test_every_setting_has_a_row() -> None:
    page = text("settings.md")
    named = [f"| `--{section}.{name}` |" for section, names in SECTIONS.items() for name in names]
    assert len(named) > 90
    assert [row for row in named if page.count(row) != 1] == []


def test_every_service_and_the_miner_have_their_endpoints() -> None:
    page = text("api.md")
    for title, path in (
        ("querier", "/inference"),
        ("trainer", "/training"),
        ("gating", "/score"),
        ("reward", "/reward"),
        ("weights", "/weights/preview"),
        ("miner", "/backward"),
    ):
        part = page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
        assert f"`{path}`" in part
