"""The gauge that tells a history that stands still from a fold that does."""

from __future__ import annotations

import math

import pytest
from prometheus_client import REGISTRY

from coremesh.errors import HistoryUnavailable
from coremesh.types import stream_key
from services.weights import newest
from tests.events import make_event
from tests.fakes.history import MemoryHistory


def shown(name: str) -> float:
    value = REGISTRY.get_sample_value(name)
    assert value is not None
    return value


async def test_the_newest_event_is_shown_and_nothing_where_there_is_none() -> None:
    history = MemoryHistory()
    await newest.look(history)
    assert math.isnan(shown("coremesh_history_event_timestamp_seconds"))
    for _ in range(2):
        place = await history.append(make_event({1: 0.5}), None, [])
    await newest.look(history)
    assert shown("coremesh_history_event_timestamp_seconds") == stream_key(place)[0] / 1000
    assert shown("coremesh_history_events") == 2


async def test_a_history_that_is_away_is_not_one_without_events() -> None:
    class Away(MemoryHistory):
        async def last_id(self):
            raise HistoryUnavailable("away")

    newest.EVENT_TIME.set(7.0)
    with pytest.raises(HistoryUnavailable):
        await newest.look(Away())
