from __future__ import annotations

import json

from coremesh.cli.history import described
from coremesh.events import Flag
from tests.events import hotkey, make_event
from tests.fakes.history import MemoryHistory


async def test_an_event_is_told_with_the_words_of_the_api() -> None:
    history = MemoryHistory()
    event = make_event({3: 0.5, 4: None}, flags=Flag.SCORED | Flag.RANDOM_SAMPLE)
    await history.append(event, None, [hotkey(3), hotkey(4)])
    (entry,) = await history.tail(1)
    row = await described(history, entry)
    assert row["flags"] == list(event.flag_names)
    assert set(row["flags"]) == {"scored", "random_sample"}
    assert row["statuses"] == ["ok", "timeout"]
    assert json.loads(json.dumps(row)) == row
