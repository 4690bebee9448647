"""Offline evaluation of a real history: as a function, and as the command with its files."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from coremesh.events import Flag, forward_event
from coremesh.events import Message as Turn
from coremesh.history.redis import RedisHistory
from coremesh.modelfiles import MINILM, resolve_model
from coremesh.types import new_event_id
from services.gating.encoder import SentenceEncoder
from services.gating.evaluate import evaluate, main
from tests.events import hotkey

ROOT = Path(__file__).parents[3]
MINERS = 8
ASKED = (
    (0, 1, 2, 3),
    (4, 5, 6, 7),
    (0, 2, 4, 6),
    (1, 3, 5, 7),
    (0, 1, 6, 7),
    (2, 3, 4, 5),
)
"""Each miner stands in half of them, and so was asked with probability 1/2."""


async def record(history: RedisHistory, count: int) -> None:
    """Miner 0 knows space, miner 1 music, miner 7 never answers; the others are worth 0.2."""
    for step in range(count):
        space = step % 2 == 0
        topic = ("planet", "comet", "galaxy")[step // 2 % 3], ("violin", "opera", "melody")[step // 2 % 3]
        text = f"What is special about the {topic[0 if space else 1]}, number {step}?"
        uids = ASKED[step // 2 % len(ASKED)]
        rewards = [float("nan") if uid == 7 else 1.0 if uid == (0 if space else 1) else 0.2 for uid in uids]
        event = forward_event(
            id=new_event_id(),
            time_ms=1,
            block=1,
            kind="answer",
            flags=Flag.SCORED | Flag.TRAIN_GATING,
            messages=(Turn("user", text),),
            uids=uids,
            hotkeys=[hotkey(uid) for uid in uids],
            status=[int(uid == 7) for uid in uids],
            latency_s=[0.1] * len(uids),
            rewards=rewards,
            available=MINERS,
            propensity=[0.5] * len(uids),
        )
        await history.append(event, None, [hotkey(uid) for uid in uids])


AVERAGE = (1.0 + 6 * 0.2) / MINERS


async def test_rules_are_told_apart_on_a_real_history(redis_history: RedisHistory) -> None:
    await record(redis_history, 240)
    encoder = SentenceEncoder(resolve_model(MINILM))
    found = await evaluate(redis_history, encoder, k=1)
    assert (found.entries, found.learnt, found.judged) == (240, 240, 240)
    assert found.observed == pytest.approx(AVERAGE)
    rules = {one.rule: one for one in found.rules}
    assert found.rules == sorted(found.rules, key=lambda one: -one.reward)
    # The one who knows was asked in half of the events only; in the others 0.2 is the best there is.
    assert found.best == pytest.approx(0.6)
    assert found.curve is not None
    assert found.curve.events == list(range(12, 241, 12))
    assert found.curve.rules["bayes"][-10:] == pytest.approx([0.6] * 10, abs=0.05)
    assert rules["bayes"].of_best is not None
    assert rules["bayes"].of_best > 0.85
    assert rules["random"].reward == pytest.approx(AVERAGE, abs=4 * rules["random"].reward_stderr)
    assert rules["moving-average"].reward < rules["bayes"].reward
    assert rules["bayes"].lead > 5 * rules["bayes"].lead_stderr > 0
    newest = await evaluate(redis_history, encoder, rules=["random"], k=1, last=40)
    assert (newest.entries, newest.judged, newest.last_id) == (40, 40, found.last_id)


async def test_new_prompts_are_judged_once_each(redis_history: RedisHistory) -> None:
    await record(redis_history, 24)
    await record(redis_history, 36)
    found = await evaluate(
        redis_history, SentenceEncoder(resolve_model(MINILM)), rules=["bayes"], k=1, new_prompts=True
    )
    assert (found.entries, found.learnt, found.judged) == (60, 60, 36)


async def test_the_command_prints_the_table_as_json_and_draws_the_curve(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
) -> None:
    await record(redis_history, 24)
    file = tmp_path / "curve.png"
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("coremesh")), "gating", "evaluate", "--history", redis_url),
        *("--chain.netuid=1", "--k", "1", "--rules", "bayes,random", "--json", "--plot", str(file)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 100)
    assert (process.returncode, err) == (0, b"")
    found: dict[str, Any] = json.loads(out)
    assert (found["judged"], sorted(one["rule"] for one in found["rules"])) == (24, ["bayes", "random"])
    assert len(found["curve"]["rules"]["bayes"]) == len(found["curve"]["events"]) == 20
    assert file.read_bytes().startswith(b"\x89PNG\r\n")
    assert file.stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--rules", "luck"], 2, "--rules: got luck. It takes bayes,"),
        (["--history", "redis://127.0.0.1:1/0"], 4, "evaluate: "),
        (["--gating.encoder=/nowhere"], 2, "/nowhere"),
        (["--gating.colour=red"], 2, "gating.colour"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    redis_url: str, capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    given = [] if "--history" in words else ["--history", redis_url]
    assert main([*given, *words]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


def test_an_empty_history_judges_nothing(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--history", redis_url]) == 3
    assert "0 judged" in capsys.readouterr().out
