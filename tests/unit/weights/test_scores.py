from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coremesh.events import Change, Event, Flag, MetagraphEvent, decode_scored, encode, pack
from coremesh.types import hotkey_digest, new_event_id
from services.weights import exact
from services.weights.rules import RULES, Rule, SoftmaxEma, rule_named
from services.weights.scores import ScoreState, dump, fold, load
from tests.events import hotkey, make_event
from tests.unit.weights.histories import HISTORIES
from tests.unit.weights.reference import Reference, exact_exp

rules = st.sampled_from(RULES)


def named(name: str, alpha: float = 0.99, temperature: float = 1.0) -> Rule:
    return rule_named(name, alpha=alpha, temperature=temperature)


def folded(*events: Event, rule: Rule | None = None) -> ScoreState:
    return fold(ScoreState(), events, rule or SoftmaxEma())


def metagraph_event(
    size: int,
    changes: list[tuple[int, str, str]] | None = None,
    excluded: tuple[int, ...] = (),
    block: int = 7,
) -> MetagraphEvent:
    return MetagraphEvent(
        id=new_event_id(),
        time_ms=0,
        block=block,
        size=size,
        changes=tuple(Change(*change) for change in changes or []),
        excluded_=pack(excluded, "<u2"),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(-708, 0) | st.sampled_from([-708.0, -709.0, -1e308, 0.0]), min_size=1, max_size=40))
def test_exp_is_the_same_in_every_position_and_within_a_rounding(values: list[float]) -> None:
    got = exact.exp(np.array(values))
    assert got.tolist() == [exact_exp(x) for x in values]
    np.testing.assert_allclose(got, [math.exp(x) for x in values], rtol=3e-16, atol=4e-308)


@settings(max_examples=150, deadline=None)
@given(rules, st.sampled_from([0.99, 0.5, 0.0]), st.sampled_from([1.0, 0.25, 7.0]), HISTORIES)
def test_a_batch_gives_the_bits_of_the_formulas(
    name: str, alpha: float, temperature: float, history: list[Event]
) -> None:
    state = fold(ScoreState(), history, named(name, alpha, temperature))
    reference = Reference(name, alpha, temperature)
    for event in history:
        reference.fold(event)
    assert state.moving.tolist() == [at.moving for at in reference.uids]
    assert [
        (d, s, f, x, b, n)
        for d, s, f, x, b, n in zip(
            state.digests.tolist(),
            state.successes.tolist(),
            state.failures.tolist(),
            state.excluded.tolist(),
            state.reset_blocks.tolist(),
            state.seen.tolist(),
            strict=True,
        )
    ] == [(a.digest, a.successes, a.failures, a.excluded, a.reset_block, a.seen) for a in reference.uids]
    assert state.events == reference.events
    scores = named(name, alpha, temperature).scores(state.moving, state.successes, state.failures)
    np.testing.assert_allclose(scores, reference.scores(), rtol=1e-13, atol=0)
    assert np.all(scores >= 0)


@settings(max_examples=150, deadline=None)
@given(rules, HISTORIES, st.randoms(use_true_random=False))
def test_any_split_and_any_restart_gives_the_same_bytes(name: str, history: list[Event], random) -> None:
    rule = named(name)
    whole = dump(fold(ScoreState(), history, rule))
    packed = dump(ScoreState())
    at = 0
    while at < len(history):
        until = at + random.randint(1, 5)
        packed = dump(fold(load(packed), history[at:until], rule))
        at = until
    assert packed == whole


@pytest.mark.parametrize("name", RULES)
def test_a_long_run_of_unequal_miners_gives_the_bits_of_the_formulas(name: str) -> None:
    """Longer than what is folded at once, of many lengths, some miners asked always and most hardly ever."""
    random = np.random.default_rng(5)
    likely = 1.0 / np.arange(1, 301)
    history: list[Event] = [metagraph_event(300, [(uid, "", hotkey(uid)) for uid in range(300)])]
    for n in range(1300):
        asked = random.choice(300, random.choice([3, 10, 10, 40]), replace=False, p=likely / likely.sum())
        rewards = {int(u): None if random.random() < 0.2 else float(random.normal()) for u in asked}
        changed = {int(asked[0]): f"new-{n}"} if random.random() < 0.02 else {}
        history.append(make_event(rewards, hotkeys=changed))
    state = fold(ScoreState(), history, named(name))
    reference = Reference(name)
    for event in history:
        reference.fold(event)
    assert state.moving.tolist() == [at.moving for at in reference.uids]
    assert state.successes.tolist() == [at.successes for at in reference.uids]
    assert state.seen.tolist() == [at.seen for at in reference.uids]
    assert state.events == reference.events
    read = [decode_scored(encode(event)) for event in history]
    assert dump(fold(ScoreState(), read, named(name))) == dump(state)


def test_one_event_by_hand() -> None:
    state = folded(make_event({0: 1.0, 1: 2.0, 2: None}, block=5))
    e = [math.exp(1.0), math.exp(2.0)]
    np.testing.assert_allclose(state.moving, [0.01 * e[0] / sum(e), 0.01 * e[1] / sum(e), 0.0], rtol=1e-15)
    assert state.successes.tolist() == [1, 1, 0]
    assert state.failures.tolist() == [0, 0, 1]
    again = fold(state, [make_event({0: 1.0, 2: 1.0})], SoftmaxEma())
    np.testing.assert_allclose(again.moving[1], 0.01 * e[1] / sum(e), rtol=1e-15)  # not asked: unchanged
    np.testing.assert_allclose(again.moving[2], 0.01 * 0.5, rtol=1e-15)


def test_events_without_the_flag_or_without_a_finite_reward_count_for_nothing() -> None:
    state = folded(
        make_event({0: 1.0}, flags=Flag.TRAIN_GATING),
        make_event({0: None, 1: math.inf, 2: math.nan}),
    )
    assert dump(state) == dump(ScoreState())


def test_a_metagraph_event_starts_a_replaced_uid_again_and_leaves_the_others() -> None:
    events = [make_event({0: 1.0, 1: 1.0}) for _ in range(3)]
    before = folded(*events).moving.copy()
    state = folded(*events, metagraph_event(2, [(1, hotkey(1), "new")], block=44))
    assert state.moving.tolist() == [before[0], 0.0]
    assert state.successes.tolist() == [3, 0]
    assert state.reset_blocks.tolist()[1] == 44
    assert state.digests.tolist() == [hotkey_digest(hotkey(0)), hotkey_digest("new")]


def test_late_news_of_a_former_hotkey_is_neither_credited_nor_takes_the_uid_back() -> None:
    start = [make_event({0: 1.0, 1: 1.0}), metagraph_event(2, [(1, hotkey(1), "new")])]
    state = folded(*start, make_event({0: 1.0, 1: 1.0}, hotkeys={1: hotkey(1)}))
    assert state.moving[1] == 0.0
    assert state.digests[1] == hotkey_digest("new")
    assert state.moving[0] == 0.99 * folded(*start).moving[0] + (1 - 0.99) * 0.5  # its share is not inflated


def test_a_hotkey_that_nobody_announced_starts_again_and_its_announcement_changes_nothing() -> None:
    events = [make_event({0: 1.0}), make_event({0: 1.0}, hotkeys={0: "new"}, block=9)]
    state = folded(*events)
    assert state.moving.tolist() == [(1 - 0.99) * 1.0]
    assert state.reset_blocks.tolist() == [9]
    announced = folded(*events, metagraph_event(1, [(0, hotkey(0), "new")]))
    assert announced.moving.tolist() == state.moving.tolist()
    assert announced.successes.tolist() == [1]


def test_a_hotkey_that_returns_counts_again() -> None:
    state = folded(
        metagraph_event(1, [(0, "", "A")]),
        metagraph_event(1, [(0, "A", "B")]),
        metagraph_event(1, [(0, "B", "A")]),
        make_event({0: 1.0}, hotkeys={0: "A"}),
        make_event({0: 1.0}, hotkeys={0: "B"}),
    )
    assert (state.successes.tolist(), state.digests.tolist()) == ([1], [hotkey_digest("A")])


def test_growth_begins_at_0_and_shrinking_forgets() -> None:
    first = make_event({0: 1.0, 3: 1.0})
    state = folded(first, metagraph_event(6))
    assert state.size == 6
    assert state.moving[4:].tolist() == [0.0, 0.0]
    state = fold(
        state, [metagraph_event(2, [(3, hotkey(3), "")]), make_event({0: 1.0, 3: 1.0})], SoftmaxEma()
    )
    assert state.size == 2  # late news of a uid that is gone does not bring it back
    state = fold(state, [metagraph_event(4, [(3, "", "new")])], SoftmaxEma())
    assert state.moving[3] == 0.0


def test_a_validator_over_the_limit_is_0_until_it_is_one_no_more() -> None:
    event = make_event({0: 1.0, 1: 1.0})
    state = folded(event, metagraph_event(2, excluded=(1,)), event)
    assert (state.moving[1], state.successes[1], bool(state.excluded[1])) == (0.0, 0, True)
    state = fold(state, [metagraph_event(2), event], SoftmaxEma())
    assert (state.moving[1], state.successes[1]) == ((1 - 0.99) * 0.5, 1)


def test_a_broken_event_does_not_stop_the_fold() -> None:
    broken = make_event({0: 1.0, 1: 1.0})
    broken = type(broken)(
        **{f: getattr(broken, f) for f in broken.__struct_fields__ if f != "rewards_"}, rewards_=b"12"
    )
    assert folded(broken, make_event({0: 1.0})).events == 1


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="no score rule 'best'"):
        named("best")
