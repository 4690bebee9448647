from __future__ import annotations

import re

import pytest

from tests.unit.docs import references
from tests.unit.docs.references import DOCS, GENERATED, ROOT, WRITTEN, text

PAGES = (
    *("index.md", "start.md", "operator.md", "runbook.md", "callers.md", "miner.md", "developers.md"),
    *("architecture.md", "devnet.md", "history.md", "gating.md", "reward.md", "parity.md", *GENERATED),
)


def test_pages_are_there() -> None:
    assert [page for page in PAGES if not (DOCS / page).is_file()] == []


@pytest.mark.parametrize("page", WRITTEN)
def test_what_a_page_names_exists(page: str) -> None:
    assert references.wrong(text(page)) == []


def test_the_readme_links_to_pages_that_exist() -> None:
    links = re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_a_wrong_name_is_found() -> None:
    page = (
        "# Here\n`trainer.top` `POST /backwards` `services/querier/gone.py` coremesh_gone_total\n"
        "COREMESH_TRAINER_TOP `coremesh down` [x](gone.md) [y](#gone) [z](#here)\n"
        "```\ncoremesh up --prot 8080\n.venv/bin/coremesh keys make ada | head  # --not\n"
        "COREMESH_CONFIG=x coremesh keys create ada \\\n  --per-minute 3 --per-hour 4\n"
        "python -m services.weights --weights.alhpa 3\n.venv/bin/python -m devnet faucet X --nodes y\n"
        "coremesh config check --service weights --weights.alpha=0.5\n```\n"
    )
    assert references.wrong(page) == [
        "no command down",
        "no command keys make",
        "no endpoint POST /backwards",
        "no file services/querier/gone.py",
        "no flag --weights.alhpa",
        "no heading gone",
        "no metric coremesh_gone_total",
        "no option --nodes of python -m devnet faucet",
        "no option --per-hour of coremesh keys create",
        "no option --prot of coremesh up",
        "no page gone.md",
        "no setting trainer.top",
        "no variable COREMESH_TRAINER_TOP",
    ]
