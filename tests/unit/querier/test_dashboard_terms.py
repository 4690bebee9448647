from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from coremesh.contracts import RewardRequest
from coremesh.wire.status import Status
from services.querier.dashboard.pages import STATIC

KEPT = Path(STATIC, "js", "terms.js").read_text(encoding="utf-8")


def terms(name: str) -> set[str]:
    block = re.search(rf"export const {name} = {{(.*?)^}};", KEPT, re.MULTILINE | re.DOTALL)
    assert block is not None
    return set(re.findall(r"^  (\w+): ", block[1], re.MULTILINE))


def test_the_page_explains_every_status_kind_and_result() -> None:
    assert terms("STATUSES") == {status.name.lower() for status in Status} | {"pending"}
    kinds = set(get_args(get_type_hints(RewardRequest)["kind"]))
    assert terms("KINDS") == kinds | {"metagraph"}


@pytest.mark.parametrize(
    "result", ["held", "dry_run", "sent", "landed", "committed", "revealed", "superseded", "failed"]
)
def test_every_result_of_a_submission_is_explained(result: str) -> None:
    assert result in terms("RESULTS")
