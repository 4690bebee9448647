from __future__ import annotations

from coremesh.contracts import ChatMessage
from services.querier.timeouts import timeout_s

SYSTEM = ChatMessage(role="system", content="x" * 5000)
ASKED = (
    SYSTEM,
    ChatMessage(role="user", content="y" * 300),
    ChatMessage(role="assistant", content="z" * 100),
)


def test_as_set_where_length_does_not_count() -> None:
    assert timeout_s(4.0, 0.0, ASKED, most_s=60.0) == 4.0


def test_seconds_more_for_each_character_of_what_is_asked() -> None:
    assert timeout_s(4.0, 0.01, ASKED, most_s=60.0) == 8.0
    assert timeout_s(4.0, 0.01, (SYSTEM,), most_s=60.0) == 4.0


def test_up_to_a_bound_that_shortens_nothing() -> None:
    assert timeout_s(4.0, 1.0, ASKED, most_s=60.0) == 60.0
    assert timeout_s(4.0, 1.0, ASKED, most_s=3.0) == 4.0
