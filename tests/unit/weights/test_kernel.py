"""The kernel gives the bits of scores.fold, for everything that can be in a history."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coremesh.events import Change, Event, Flag, ForwardEvent, MetagraphEvent, decode_scored, encode, pack
from coremesh.history.page import Page
from coremesh.types import new_event_id
from services.weights.kernel import fold_page, has_kernel
from services.weights.rules import RULES, Rule, SoftmaxEma, rule_named
from services.weights.scores import ScoreState, dump, fold, load
from tests.events import hotkey, make_event
from tests.pages import fill
from tests.unit.weights.histories import HISTORIES, forwards

pytestmark = pytest.mark.skipif(not has_kernel(SoftmaxEma()), reason="the kernel is not compiled")


def named(name: str, alpha: float = 0.99, temperature: float = 1.0) -> Rule:
    return rule_named(name, alpha=alpha, temperature=temperature)


def paged(state: ScoreState, packed: list[bytes], rule: Rule) -> ScoreState:
    page = Page(max(1, len(packed)))
    fill(page, [(f"1700000000000-{n}", one) for n, one in enumerate(packed)])
    return fold_page(state, page, rule)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(RULES),
    st.sampled_from([0.99, 0.5, 0.0]),
    st.sampled_from([1.0, 0.25, 7.0, 1e-9]),
    HISTORIES,
)
def test_a_page_gives_the_bytes_of_the_fold(
    name: str, alpha: float, temperature: float, history: list[Event]
) -> None:
    rule = named(name, alpha, temperature)
    whole = paged(ScoreState(), [encode(event) for event in history], rule)
    assert dump(whole) == dump(fold(ScoreState(), history, rule))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(RULES), HISTORIES, st.randoms(use_true_random=False))
def test_any_split_into_pages_and_events_and_restarts_gives_the_same_bytes(
    name: str, history: list[Event], random
) -> None:
    rule = named(name)
    packed = dump(ScoreState())
    at = 0
    while at < len(history):
        until = at + random.randint(1, 6)
        state, part = load(packed), history[at:until]
        pages = random.random() < 0.7
        state = paged(state, [encode(e) for e in part], rule) if pages else fold(state, part, rule)
        packed, at = dump(state), until
    assert packed == dump(fold(ScoreState(), history, rule))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_a_long_history_of_many_lengths_gives_the_bytes_of_the_fold(name: str, temperature: float) -> None:
    random = np.random.default_rng(3)
    rule = named(name, 0.99, temperature)
    first = MetagraphEvent(
        id=new_event_id(),
        time_ms=0,
        block=1,
        size=300,
        changes=tuple(Change(uid, "", hotkey(uid)) for uid in range(300)),
        excluded_=pack([7, 8], "<u2"),
    )
    history: list[Event] = [first]
    for n in range(1500):
        asked = random.choice(310, random.choice([1, 2, 7, 8, 9, 50, 50, 50, 290]), replace=False)
        scale = random.choice([0.01, 1.0, 300.0, 1e30])
        rewards = {int(u): None if random.random() < 0.2 else float(random.normal() * scale) for u in asked}
        changed = {int(asked[0]): f"new-{n % 3}"} if random.random() < 0.02 else {}
        history.append(make_event(rewards, hotkeys=changed, block=n))
        if random.random() < 0.01:
            uid = int(random.integers(300))
            size = int(random.integers(290, 306))
            change = (Change(uid, hotkey(uid), f"new-{n % 3}"),)
            history.append(MetagraphEvent(id=new_event_id(), time_ms=0, block=n, size=size, changes=change))
    state = paged(ScoreState(), [encode(event) for event in history], rule)
    assert dump(state) == dump(fold(ScoreState(), history, rule))
    assert state.events > 1000


class Longer(ForwardEvent, frozen=True, array_like=True, tag=1, kw_only=True, gc=False):
    """An event of a later version."""

    more: tuple[dict[str, int], ...] = ({"a": 1, "b": 2**40},)


def test_an_event_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    event = make_event({0: 1.0, 1: 2.0})
    later = Longer(**{field: getattr(event, field) for field in event.__struct_fields__})
    packed = msgspec.msgpack.encode(later)
    rule = SoftmaxEma()
    assert dump(paged(ScoreState(), [packed, packed], rule)) == dump(fold(ScoreState(), [event, event], rule))


@settings(max_examples=60, deadline=None)
@given(st.lists(forwards(), min_size=1, max_size=4), st.data())
def test_what_cannot_be_decoded_is_refused_as_decoding_refuses_it(events: list[Event], data) -> None:
    """Broken bytes: the kernel never takes what decode_scored refuses, nor reads it in another way."""
    packed = [bytearray(encode(event)) for event in events]
    for one in packed:
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(one) - 1))
            if data.draw(st.integers(0, 3)):
                one[at] = data.draw(st.integers(0, 255))
            else:
                del one[at + 1 :]
    rule = SoftmaxEma()
    try:
        expected = dump(fold(ScoreState(), [decode_scored(bytes(one)) for one in packed], rule))
    except (msgspec.DecodeError, OverflowError):
        expected = None
    try:
        got = dump(paged(ScoreState(), [bytes(one) for one in packed], rule))
    except (msgspec.DecodeError, OverflowError):
        got = None
    assert got == expected


def test_what_the_kernel_leaves_is_folded_in_its_place() -> None:
    """More entries than the kernel takes, values that it does not parse, an unannounced uid."""
    rule = SoftmaxEma()
    plain = make_event({uid: float(uid) for uid in range(5)})
    crowd = make_event({uid: float(uid % 7) for uid in range(700)})
    late = make_event(dict.fromkeys(range(5), 1.0), hotkeys={4: "new"}, block=77)
    last = make_event(dict.fromkeys(range(4), 2.0))
    unscored = make_event({0: 5.0}, flags=Flag.TRAIN_GATING)
    history: list[Event] = [plain, plain, crowd, plain, late, late, unscored, last, *[last, crowd] * 5, late]
    state = paged(ScoreState(), [encode(event) for event in history], rule)
    assert dump(state) == dump(fold(ScoreState(), history, rule))
    assert state.reset_blocks[4] == 77
