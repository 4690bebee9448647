"""The leader is killed before and after every call that a submission makes of the history and of the chain."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from coremesh.history import Submission
from coremesh.settings import WeightsSettings
from services.weights.ledger import Ledger
from services.weights.submitter import Submitter
from tests.unit.weights.fake_chain import FakeChain, Killed
from tests.unit.weights.test_submitter import Bench, bench, sealed


class Fragile:
    """Something whose caller dies at one of its calls, before or after it took effect."""

    def __init__(self, whole: Any, calls: itertools.count[int], at: int) -> None:
        self._whole = whole
        self._calls = calls
        self._at = at

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._whole, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if next(self._calls) == self._at:
                raise Killed
            result = await method(*args, **kwargs)
            if next(self._calls) == self._at:
                raise Killed
            return result

        return call


def instance(b: Bench, at: int = -1) -> None:
    """A new process, which dies at call ``at``."""
    calls = itertools.count()
    b.ledger = Ledger(Fragile(b.history, calls, at))  # type: ignore[arg-type]
    chain: Any = Fragile(b.chain, calls, at)
    b.submitter = Submitter(b.ledger, chain, b.book, WeightsSettings())


@pytest.mark.parametrize("commit_reveal", [False, True])
async def test_killed_at_every_call_weights_are_set_once_an_epoch_and_every_record_has_an_end(
    commit_reveal: bool,
) -> None:
    kills = 0
    for at in itertools.count():
        b = await bench(sealed() if commit_reveal else FakeChain())
        killed = False
        instance(b, at)
        sets: list[int] = []
        for step in range(50):
            if step == 23 and not killed:
                break  # every call up to the second epoch has had its turn
            if step % 4 == 0:
                await b.forward(u1=2.0 + step, u2=1.0)
            try:
                if step == 0:
                    await b.submitter.take_over()
                await b.step()
            except Killed:
                killed = True
                instance(b)
                await b.submitter.take_over()
            sets.append(b.chain.last_update[0])
        if not killed:
            break
        kills += 1
        updates = sorted({block for block in sets if block})
        starts = range(100, b.chain.epoch_start, 20)
        in_epochs = [[block for block in updates if start <= block < start + 20] for start in starts]
        assert all(len(found) == 1 for found in in_epochs), f"killed at call {at}: {in_epochs}"
        last: dict[str, Submission] = {}
        for entry in await b.history.submissions(1000):
            last.setdefault(entry.submission.id, entry.submission)
        ends = [s.result for s in last.values() if s.id not in {u.id for u in b.ledger.sealed}]
        assert set(ends) <= {"landed", "revealed", "superseded", "failed"}, f"killed at call {at}: {ends}"
        assert ends.count("revealed" if commit_reveal else "landed") >= 2
    assert kills > 20
