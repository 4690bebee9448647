from __future__ import annotations

import numpy as np
import pytest

from coremesh.events import Flag, ForwardEvent, forward_event
from coremesh.types import hotkey_digest, new_event_id
from coremesh.wire.status import Status
from services.querier.dashboard.window import SAMPLES, Window


def event(n: int, **replies: float | Status) -> ForwardEvent:
    """One forward: a reward per hotkey, or the status of its failure."""
    found = list(replies.values())
    failed = [isinstance(one, Status) for one in found]
    return forward_event(
        id=new_event_id(n),
        time_ms=n,
        block=1,
        kind="answer",
        flags=Flag.SCORED,
        messages=(),
        uids=list(range(len(found))),
        hotkeys=list(replies),
        status=[one if bad else Status.OK for one, bad in zip(found, failed, strict=True)],
        latency_s=[n / 10] * len(found),
        rewards=[np.nan if bad else one for one, bad in zip(found, failed, strict=True)],
    )


def digests(*hotkeys: str) -> list[int]:
    return [hotkey_digest(hotkey) for hotkey in hotkeys]


def test_a_summary_counts_successes_and_takes_latency_and_reward_from_them_alone() -> None:
    window = Window()
    window.note(event(1, a=0.5, b=Status.TIMEOUT))
    window.note(event(2, a=Status.REFUSED, b=Status.TIMEOUT))
    window.note(event(3, a=0.9))
    window.note(event(6, a=float("nan")))  # succeeded, and was not rewarded
    found = window.summary(digests("a", "b", "stranger"), newest=3)
    assert found.asked.tolist() == [4, 2, 0]
    assert found.success[:2].tolist() == [0.75, 0.0]
    assert np.isnan(found.success[2])
    assert found.latency_s[0] == pytest.approx(0.3)
    assert np.isnan(found.latency_s[1:]).all()
    assert found.reward[0] == pytest.approx(0.7)
    assert np.isnan(found.reward[1:]).all()
    assert found.last_status.tolist()[:2] == [Status.OK, Status.TIMEOUT]
    assert found.last_ms.tolist()[:2] == [6, 2]
    assert np.nan_to_num(found.newest, nan=-1).tolist() == [
        [-1, pytest.approx(0.9), -1],
        [-1, -1, -1],
        [-1, -1, -1],
    ]


def test_only_the_newest_requests_are_remembered_in_order() -> None:
    window = Window()
    for n in range(SAMPLES + 10):
        window.note(event(n, a=float(n)))
    samples = window.samples(hotkey_digest("a"))
    assert samples.time_ms.tolist() == list(range(10, SAMPLES + 10))
    assert samples.rewards.tolist() == [float(n) for n in range(10, SAMPLES + 10)]
    assert window.summary(digests("a"), newest=2).newest.tolist() == [[SAMPLES + 8, SAMPLES + 9]]


def test_hotkeys_that_left_are_forgotten_and_the_others_kept() -> None:
    window = Window()
    names = [f"k{i}" for i in range(200)]  # more than there is room for at first
    for n, name in enumerate(names):
        window.note(event(n, **{name: float(n)}))
    window.keep(digests(*names[100:]))
    assert len(window) == 100
    assert window.samples(hotkey_digest("k7")).status.size == 0
    assert [window.samples(d).rewards.tolist() for d in digests("k100", "k199")] == [[100.0], [199.0]]
    window.note(event(5, k7=0.25))
    assert window.samples(hotkey_digest("k7")).rewards.tolist() == [0.25]
    assert window.samples(hotkey_digest("k199")).rewards.tolist() == [199.0]


def test_a_reply_without_a_hotkey_is_nobodys() -> None:
    window = Window()
    nobody = forward_event(
        id=new_event_id(),
        time_ms=1,
        block=1,
        kind="answer",
        flags=Flag.NONE,
        messages=(),
        uids=[3],
        hotkeys=[""],
        status=[0],
        latency_s=[1],
        rewards=[1],
    )
    window.note(nobody)
    assert len(window) == 0
