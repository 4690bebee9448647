"""Processes that are given one spool directory do not get into each other's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from coremesh.errors import BadSetting
from coremesh.history.spool import Spooled
from services.querier.spooling import OwnSpool
from tests.events import make_event


def test_each_has_a_place_and_a_left_one_is_taken_over(tmp_path: Path) -> None:
    first = OwnSpool(tmp_path / "spool", max_events=10)
    second = OwnSpool(tmp_path / "spool", max_events=10)
    event = make_event({1: 0.5})
    first.spool.put(Spooled(event, None, ["5Hotkey0001"]))
    assert (len(first.spool), len(second.spool)) == (1, 0)
    first.close()
    third = OwnSpool(tmp_path / "spool", max_events=10)
    assert [spooled.event.id for spooled in third.spool.oldest(10)] == [event.id]
    second.close()
    third.close()


def test_a_directory_that_cannot_be_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match=r"--querier\.spool"):
        OwnSpool(tmp_path / "file" / "spool", max_events=10)
