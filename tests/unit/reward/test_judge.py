"""What counts as a mark. The endpoint's side is tests/integration/reward/test_judge.py."""

from __future__ import annotations

import time

from services.reward.batch import Batch, Turn
from services.reward.functions.judge import Judge
from services.reward.work import Inline


async def marks(*replies: str) -> list[float]:
    """What a judge makes of replies, one for each completion, given again when it asks once more."""

    async def ask(messages: list[dict[str, str]]) -> str:
        answer = messages[1]["content"].rpartition("[answer")[0]
        return next(reply for i, reply in enumerate(replies) if f"completion-{i}." in answer)

    completions = tuple(f"completion-{i}." for i in range(len(replies)))
    judge = Judge("judge", ask, concurrent=4, max_chars=1000)
    return (await judge.raw(Batch((Turn("user", "Why?"),), completions, "answer", Inline()))).tolist()


async def test_a_mark_is_a_number_and_nothing_else():
    good = {"7": 0.7, " 10\n": 1.0, "3/10": 0.3, "3 / 10 .": 0.3, "0.": 0.0, "8 ": 0.8}
    bad = ("11", "-1", "7 of 10", "7.5", "ten", "", "7/100", "7 10", "10 because")
    assert await marks(*good) == list(good.values())
    assert await marks(*bad) == [0.0] * len(bad)


async def test_a_reply_of_many_blanks_does_not_stop_the_loop():
    began = time.process_time()
    assert await marks(f"7{' ' * 2000}x", f"\n{' ' * 2000}7{' ' * 2000}") == [0.0, 0.7]
    assert time.process_time() - began < 2  # 23 s a look where blanks may be shared out among three places
