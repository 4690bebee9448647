"""A breaker opens after failures in a row, lets one probe through, and trusts again slowly."""

from __future__ import annotations

from services.querier.miners.breaker import Breakers


def fail(breakers: Breakers, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        breakers.failed("m", now)


def test_opens_probes_and_doubles() -> None:
    breakers = Breakers(failures=3, base_s=5, max_s=12)
    fail(breakers, 2)
    assert breakers.allows("m", 0)
    fail(breakers, 1)
    assert not breakers.allows("m", 4.9)
    assert breakers.allows("other", 4.9)
    assert breakers.allows("m", 5)
    assert not breakers.allows("m", 5)  # one probe at a time
    fail(breakers, 1, now=6)
    assert not breakers.allows("m", 15.9)
    assert breakers.allows("m", 16)  # 10 s, doubled
    fail(breakers, 1, now=16)
    assert not breakers.allows("m", 27.9)
    assert breakers.allows("m", 28)  # 12 s, the most


def test_recovers_one_success_at_a_time() -> None:
    breakers = Breakers(failures=3, base_s=5)
    fail(breakers, 3)
    assert breakers.allows("m", 5)
    breakers.succeeded("m")
    assert breakers.allows("m", 5)
    assert breakers.allows("m", 5)
    fail(breakers, 1, now=5)
    assert not breakers.allows("m", 9)
    assert breakers.allows("m", 10)
    for _ in range(3):
        breakers.succeeded("m")
    assert len(breakers) == 0


def test_stragglers_do_not_prolong_and_abandoned_probes_come_again() -> None:
    breakers = Breakers(failures=3, base_s=5)
    fail(breakers, 3)
    fail(breakers, 50, now=4)
    assert breakers.allows("m", 5)
    assert not breakers.allows("m", 5)
    breakers.abandoned("m")
    assert breakers.allows("m", 5)


def test_memory_is_bounded_and_good_miners_take_none() -> None:
    breakers = Breakers(capacity=100)
    for i in range(100_000):
        breakers.succeeded(f"good{i}")
        breakers.failed(f"bad{i}", 0.0)
    assert len(breakers) == 100
