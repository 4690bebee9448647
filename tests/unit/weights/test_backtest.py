"""Several rules side by side over one history."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from coremesh.errors import BadSetting
from coremesh.events import Event
from coremesh.history import Checkpoint
from coremesh.types import StreamId
from services.weights import scores
from services.weights.backtest import Backtest, Ranked, backtest, spearman
from services.weights.backtesting import plot, rule_of_text, show
from services.weights.exact import Floats, Indices
from services.weights.fold import NAME, ScoreFold
from services.weights.rules import Rule, ShrunkZ, SoftmaxEma
from services.weights.scores import ScoreState
from tests.events import make_event
from tests.fakes.history import MemoryHistory
from tests.unit.weights.histories import HISTORIES
from tests.unit.weights.test_explain import kept

RULES: dict[str, Rule] = {
    "fast": SoftmaxEma(0.5),
    "slow": SoftmaxEma(0.99),
    "z": ShrunkZ(),
}


def held(events: list[Event], rule: Rule) -> MemoryHistory:
    """With the checkpoint that the service would hold."""
    history = kept(events)
    state = scores.dump(scores.fold(ScoreState(), events, rule))
    checkpoint = Checkpoint(
        last_id=StreamId(f"{len(events)}-0"), state=state, version=1, format=ScoreFold(rule).format
    )
    history._checkpoints[NAME] = (checkpoint, 1)
    return history


def months() -> list[Event]:
    """Four miners, the later the uid the better; uid 4 only fails; the best two change places half way."""
    events: list[Event] = []
    for n in range(60):
        a, b = (3.0, 2.0) if n < 30 else (2.0, 3.0)
        events.append(make_event({0: a, 1: b, 2: 1.0, 3: 0.5, 4: None}, block=n * 10))
    return events


@settings(max_examples=40, deadline=None)
@given(HISTORIES, st.sampled_from(sorted(RULES)))
async def test_the_rule_in_force_gives_the_held_scores_bit_for_bit(events: list[Event], name: str) -> None:
    found = await backtest(held(events, RULES[name]), RULES, epoch_blocks=100)
    assert {one.rule: one.live for one in found.rules} == {
        rule: True if rule == name else None for rule in RULES
    }
    for one in found.rules:
        assert not one.weights or sum(one.weights.values()) == pytest.approx(1.0)


async def test_other_held_scores_are_said() -> None:
    history = held(months(), RULES["slow"])
    checkpoint, token = history._checkpoints[NAME]
    state = scores.load(checkpoint.state)
    state.moving[1] = np.nextafter(state.moving[1], 1.0)
    draft = Checkpoint(last_id=checkpoint.last_id, state=scores.dump(state), format=checkpoint.format)
    history._checkpoints[NAME] = (draft, token)
    found = await backtest(history, RULES, epoch_blocks=100)
    assert [one.live for one in found.rules] == [None, False, None]


async def result() -> Backtest:
    return await backtest(held(months(), RULES["slow"]), RULES, epoch_blocks=100)


async def test_rules_differ_as_they_should() -> None:
    found = await result()
    assert (found.entries, found.events, found.epochs) == (60, 60, [0, 100, 200, 300, 400])
    fast, slow, z = found.rules
    assert found.mean_reward == {0: 2.5, 1: 2.5, 2: 1.0, 3: 0.5}
    # The fast rule has forgotten the first half.
    assert max(fast.weights, key=fast.weights.__getitem__) == 1
    assert fast.weights[1] > slow.weights[1] > z.weights[1] > z.weights[3] > 0
    assert 4 not in fast.weights
    assert fast.churn is not None
    assert slow.churn is not None
    assert max(moves(fast)) > max(moves(slow))
    assert len(fast.churn_by_epoch) == 4
    assert slow.spearman_reward == pytest.approx(0.9486832980505138)
    assert [(p.one, p.two, p.top_overlap) for p in found.pairs] == [
        ("fast", "slow", 1.0),
        ("fast", "z", 1.0),
        ("slow", "z", 1.0),
    ]
    assert found.pairs[0].spearman == pytest.approx(1.0)


def moves(one: Ranked) -> list[float]:
    return [change for change in one.churn_by_epoch if change is not None]


class Late(SoftmaxEma):
    """Has no weights before 25 events."""

    def scores(self, moving: Floats, successes: Indices, failures: Indices) -> Floats:
        found = super().scores(moving, successes, failures)
        return found if successes.max(initial=0) > 25 else np.zeros_like(found)


async def test_epochs_of_rules_stand_beside_each_other() -> None:
    # Epochs 0, 100, 200 and, after two without any event, 500, 600 and 700.
    events = [
        make_event({0: 3.0, 1: 2.0} if n < 30 else {0: 2.0, 1: 3.0}, block=n * 10 + 200 * (n >= 30))
        for n in range(60)
    ]
    found = await backtest(
        held(events, RULES["fast"]), {"fast": RULES["fast"], "late": Late(0.5)}, epoch_blocks=100
    )
    assert found.epochs == [0, 100, 200, 500, 600]
    fast, late = found.rules
    assert len(fast.churn_by_epoch) == len(found.epochs) - 1
    assert late.churn_by_epoch == [None, None, *fast.churn_by_epoch[2:]]
    # The best two change places in the epoch of block 500.
    assert fast.churn_by_epoch[2] == max(moves(fast))
    assert (fast.churn, late.churn) == (np.mean(moves(fast)), np.mean(moves(late)))
    # Whatever stands first.
    again = await backtest(
        held(events, RULES["fast"]), {"late": Late(0.5), "fast": RULES["fast"]}, epoch_blocks=100
    )
    assert [asdict(one) for one in reversed(again.rules)] == [asdict(one) for one in found.rules]


async def test_it_is_shown_as_tables_json_and_a_picture(tmp_path: Path) -> None:
    found = await result()
    text = io.StringIO()
    show(found, Console(file=text, width=160))
    assert "60 scored events in 60 entries" in text.getvalue()
    assert "every bit" in text.getvalue()
    again = json.loads(json.dumps(asdict(found)))
    assert [one["rule"] for one in again["rules"]] == ["fast", "slow", "z"]
    plot(found, tmp_path / "rules.png")
    assert (tmp_path / "rules.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(BadSetting, match="cannot write"):
        plot(found, tmp_path / "no" / "rules.png")


def test_spearman_ranks_ties_at_their_mean() -> None:
    a = np.array([1.0, 2.0, 2.0, 4.0])
    assert spearman(a, a) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman(a, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.9486832980505138)
    assert spearman(a, np.ones(4)) is None
    assert spearman(a[:1], a[:1]) is None


def test_a_rule_is_written_with_its_parameters() -> None:
    def rule(text: str) -> str:
        return rule_of_text(text, alpha=0.9, temperature=2.0).format

    assert rule("softmax_ema") == "softmax_ema:alpha=0.9:temperature=2.0"
    assert rule("softmax_ema:alpha=0.05") == "softmax_ema:alpha=0.05:temperature=2.0"
    assert rule("softmax_ema_corrected:temperature=1:alpha=0.5") == (
        "softmax_ema_corrected:alpha=0.5:temperature=1.0"
    )
    assert rule("shrunk_z") == "shrunk_z:kappa=3.0"


@pytest.mark.parametrize(
    "text",
    ["best", "softmax_ema:alpha=1", "softmax_ema:alpha=x", "softmax_ema:beta=1", "softmax_ema:alpha", ""],
)
def test_a_rule_that_there_is_not_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(BadSetting) as caught:
        rule_of_text(text, alpha=0.9, temperature=1.0)
    assert "NAME[:alpha=A]" in caught.value.remedy
