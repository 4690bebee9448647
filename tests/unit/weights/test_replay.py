from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from rich.console import Console

from coremesh.history import Checkpoint, SubmissionEntry
from coremesh.types import ORIGIN
from services.weights.fold import NAME, ScoreFold
from services.weights.recipe import recipe_of_text
from services.weights.replay import DIFFERENT, EQUAL, NOT_PROVABLE, replay, show
from services.weights.rules import SoftmaxEma
from tests.fakes.history import MemoryHistory
from tests.unit.weights.test_submitter import Bench, bench


async def with_submissions(**settings: object) -> Bench:
    b = await bench(**settings)
    for _ in range(3):
        await b.forward(u1=2.0, u2=1.0, u3=None)
        await b.step(20)
    await b.forward(u3=1.0)
    return b


async def test_scores_and_every_submission_are_reproduced() -> None:
    b = await with_submissions()
    report = await replay(b.history)
    assert (report.exit_code, report.equal, report.differences) == (EQUAL, True, [])
    assert (report.events, report.entries) == (4, 5)
    assert [(s.result, s.equal) for s in report.submissions] == [("landed", True)] * 3
    shown = io.StringIO()
    show(report, Console(file=shown, width=120))
    assert "every bit is equal" in shown.getvalue()
    assert shown.getvalue().count("landed") == 3


async def test_submissions_under_an_earlier_rule_are_reproduced_by_that_rule() -> None:
    b = await with_submissions(rule="shrunk_z")
    # The operator changes the rule: the fold begins anew and overtakes the old checkpoint.
    fold, old = ScoreFold(SoftmaxEma()), await b.history.load(NAME)
    assert old is not None
    entries = await b.history.read(ORIGIN, 1000)
    state = await fold.apply(fold.initial(), entries)
    draft = Checkpoint(last_id=entries[-1].stream_id, state=fold.dump(state), format=fold.format)
    await b.history.save(NAME, draft, b.lease, old.last_id)
    report = await replay(b.history)
    assert report.exit_code == EQUAL
    assert report.format == "scores/1:softmax_ema:alpha=0.99:temperature=1.0"
    assert {recipe_of_text(e.submission.rule).rule.name for e in await b.history.submissions(10)} == {
        "shrunk_z"
    }


class Moving:
    """A history that goes on once, right after something of it was read."""

    def __init__(self, history: MemoryHistory, read: str, go_on: Callable[[], Awaitable[object]]) -> None:
        self._history, self._read, self._go_on = history, read, go_on

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._history, name)
        if name != self._read:
            return found

        async def reads(*words: Any) -> Any:
            answer, self._read = await found(*words), ""
            await self._go_on()
            return answer

        return reads


async def test_weights_that_are_set_meanwhile_are_no_difference() -> None:
    b = await with_submissions()

    async def set_weights() -> None:
        await b.forward(u1=1.0)
        await b.step(20)

    report = await replay(Moving(b.history, "load", set_weights))
    assert report.exit_code == EQUAL
    assert len(await b.history.submissions(100)) > len(report.submissions)


async def test_a_history_that_is_trimmed_meanwhile_proves_nothing() -> None:
    b = await with_submissions()
    report = await replay(Moving(b.history, "trimmed", lambda: b.history.trim(1, ("scores",))))
    assert report.exit_code == NOT_PROVABLE


async def test_a_submission_with_other_weights_is_found_out() -> None:
    b = await with_submissions()
    forged = msgspec.structs.replace(await b.newest(), id="forged", values=(1, 65535))
    b.history._submissions.append(SubmissionEntry(b.book.page.last_id, forged))
    report = await replay(b.history)
    assert report.exit_code == DIFFERENT
    assert [(s.id, s.note) for s in report.submissions if not s.equal] == [
        ("forged", "the replayed weights are others")
    ]


async def test_an_empty_history_is_equal_and_a_trimmed_one_is_not_provable() -> None:
    assert (await replay(MemoryHistory())).exit_code == EQUAL
    b = await with_submissions()
    await b.history.trim(1, ("scores",))
    assert (await replay(b.history)).exit_code == NOT_PROVABLE


@pytest.mark.parametrize(
    "text", ["", "softmax_ema", "best|min_weights=1|max_weight=1|no_history=skip", "shrunk_z:kappa=4.0|"]
)
def test_an_unknown_recipe_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        recipe_of_text(text)
