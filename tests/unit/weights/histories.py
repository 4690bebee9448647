"""Random histories: forwards among hotkeys that come, go, return, and are seen before or after their news."""

from __future__ import annotations

import math

import msgspec
from hypothesis import strategies as st

from coremesh.events import Change, Event, Flag, ForwardEvent, MetagraphEvent, pack
from coremesh.types import new_event_id
from tests.events import make_event

REWARDS = st.one_of(
    st.floats(-5, 5, width=32),
    st.sampled_from([None, math.inf, -math.inf, math.nan, 0.0, 1e38, -1e38]),
)
NAMES = st.sampled_from(["A", "B", "C", "D", "E", "F"])


@st.composite
def forwards(draw: st.DrawFn) -> Event:
    rewards = draw(st.dictionaries(st.integers(0, 9), REWARDS, min_size=1, max_size=8))
    hotkeys = {
        uid: draw(st.one_of(st.just(f"home-{uid}"), st.just(f"home-{uid}"), NAMES, st.just("")))
        for uid in rewards
    }
    flags = draw(st.sampled_from([Flag.SCORED, Flag.SCORED, Flag.SCORED, Flag.TRAIN_GATING]))
    event = make_event(rewards, hotkeys=hotkeys, flags=flags, block=draw(st.integers(0, 1000)))
    return twice(event) if draw(st.integers(0, 4)) == 0 else event


def twice(event: ForwardEvent) -> ForwardEvent:
    """The event with every uid in it two times, one after the other and the other way round."""
    return msgspec.structs.replace(
        event,
        uids_=event.uids_ + event.uids[::-1].tobytes(),
        hotkeys_=event.hotkeys_ + event.hotkeys[::-1].tobytes(),
        rewards_=event.rewards_ + event.rewards.tobytes(),
    )


@st.composite
def news(draw: st.DrawFn) -> Event:
    size = draw(st.integers(0, 9))
    touched = draw(st.lists(st.integers(0, max(size, 1) - 1), unique=True, max_size=4)) if size else []
    changes = tuple(
        Change(uid, draw(st.one_of(st.just(""), NAMES, st.just(f"home-{uid}"))), draw(NAMES))
        for uid in touched
    )
    excluded = draw(st.lists(st.integers(0, size - 1), unique=True, max_size=2)) if size else []
    return MetagraphEvent(
        id=new_event_id(),
        time_ms=0,
        block=draw(st.integers(0, 1000)),
        size=size,
        changes=changes,
        excluded_=pack(excluded, "<u2"),
    )


HISTORIES = st.lists(st.one_of(forwards(), forwards(), forwards(), news()), max_size=25)
