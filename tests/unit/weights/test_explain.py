"""Explanations: the served score again, bit for bit, from any history, and what a forger cannot change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coremesh.contracts import Explanation, SignedExplanation
from coremesh.errors import Unavailable
from coremesh.events import Change, Event, MetagraphEvent, pack
from coremesh.history import Entry
from coremesh.types import ORIGIN, StreamId, new_event_id
from coremesh.wire.keys import keypair_from_uri
from services.weights import scores
from services.weights.book import Page
from services.weights.compute import Vector
from services.weights.explain import Base, Speaker, UnknownMiner, explain
from services.weights.proof import canonical, sign, verify
from services.weights.rules import Rule, ShrunkZ, SoftmaxEma, SoftmaxEmaCorrected
from services.weights.scores import ScoreState
from services.weights.verify import BAD
from services.weights.verify import main as verify_main
from tests.events import hotkey, make_event
from tests.fakes.history import MemoryHistory
from tests.unit.weights.histories import HISTORIES
from tests.unit.weights.test_api import announced, forward, serving

RULES: list[Rule] = [SoftmaxEma(), SoftmaxEmaCorrected(0.9), ShrunkZ()]
SPEAKER = Speaker(1, "", Vector((1, 2), (0.75, 0.25), (65535, 21845)))
ALICE = keypair_from_uri("//Alice")


def kept(events: list[Event], trimmed: int = 0) -> MemoryHistory:
    history = MemoryHistory()
    history._entries = [Entry(StreamId(f"{n}-0"), event) for n, event in enumerate(events, 1)][trimmed:]
    history._trimmed = StreamId(f"{trimmed}-0")
    return history


async def explained(
    events: list[Event], uid: int, rule: Rule = RULES[0], count: int = 50, trimmed: int = 0, base: int = 0
) -> Explanation:
    page = Page(scores.fold(ScoreState(), events, rule), StreamId(f"{len(events)}-0"), 1)
    whole = Base(scores.fold(ScoreState(), events[:base], rule), StreamId(f"{base}-0"))
    return await explain(
        kept(events, trimmed),
        page,
        rule,
        uid,
        events=count,
        base=whole if trimmed <= base else None,
        speaker=SPEAKER,
    )


def news(*changes: Change, size: int = 4, excluded: tuple[int, ...] = ()) -> MetagraphEvent:
    return MetagraphEvent(
        id=new_event_id(), time_ms=7, block=9, size=size, changes=changes, excluded_=pack(excluded, "<u2")
    )


def story() -> list[Event]:
    return [
        news(*(Change(uid, "", hotkey(uid)) for uid in range(4))),
        make_event({1: 1.0, 2: 0.5, 3: None}),
        make_event({2: 0.5, 3: 1.5}),
        news(Change(1, hotkey(1), "5New"), excluded=(0,)),
        make_event({1: 3.0, 2: 1.0}),  # the former hotkey of uid 1
        make_event({1: 0.25, 2: 1.0, 3: float("inf")}, hotkeys={1: "5New"}),
        make_event({1: None, 2: 1.0}, hotkeys={1: "5New"}),
    ]


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(0, 9), st.sampled_from(RULES), st.integers(1, 12))
async def test_any_history_is_explained_to_the_served_bit_and_verifies(
    events: list[Event], uid: int, rule: Rule, count: int
) -> None:
    state = scores.fold(ScoreState(), events, rule)
    if uid >= state.size:
        with pytest.raises(UnknownMiner):
            await explained(events, uid, rule, count)
        return
    found = await explained(events, uid, rule, count)
    assert found.agrees
    assert found.standing.score == rule.scores(state.moving, state.successes, state.failures)[uid]
    assert sum(step.what == "event" for step in found.steps) <= count
    # What came after the first shown step is a chain of checkable steps up to the served score.
    verdict = verify(SignedExplanation(explanation=found))
    assert (verdict.problems, verdict.signed) == ([], False)


async def test_a_story_is_told_with_its_shares_failures_and_resets() -> None:
    events = story()
    found = await explained(events, 1)
    a, b, c = 0.01 * _softmax(1.0, 0.5), 0.0, 0.01 * _softmax(0.25, 1.0)
    assert [
        (
            step.what,
            step.event_id,
            step.before.score if step.before else None,
            pytest.approx(step.after.score if step.after else None, rel=1e-12),
        )
        for step in found.steps
    ] == [
        ("reset", events[0].id, 0.0, 0.0),
        ("event", events[1].id, 0.0, a),
        ("reset", events[3].id, found.steps[1].after.score, b),  # type: ignore[union-attr]
        ("event", events[4].id, 0.0, 0.0),
        ("event", events[5].id, 0.0, c),
        ("event", events[6].id, found.steps[4].after.score, c * 0.99),  # type: ignore[union-attr]
    ]
    first, reset, former, _, failed = found.steps[1:]
    assert first.what == former.what == failed.what == "event"
    assert (first.asked, first.places, first.rewards, first.status) == (3, (0,), (1.0, 0.5, None), "ok")
    assert first.share == pytest.approx(_softmax(1.0, 0.5), rel=1e-12)
    assert (former.counted, former.note) == (False, "the miner asked held another hotkey")
    assert (failed.reward, failed.status, failed.share, failed.counted) == (None, "timeout", 0.0, True)
    assert reset.what == "reset"
    assert reset.reason == "the uid has another hotkey"
    assert (found.rank, found.weight, found.reset_block, found.events) == (3, 0.75, 9, 5)
    assert (found.since, found.trimmed, found.last_id) == (ORIGIN, ORIGIN, "7-0")
    assert found.note == "every bit agrees with the served scores"


def _softmax(own: float, other: float) -> float:
    import math

    return math.exp(own) / (math.exp(own) + math.exp(other))


async def test_only_the_last_events_are_shown_and_the_score_is_the_same() -> None:
    events = story()
    whole, last = await explained(events, 1), await explained(events, 1, count=2)
    assert last.steps == whole.steps[-2:]
    assert (last.standing, last.agrees) == (whole.standing, True)


async def test_a_trimmed_history_is_explained_from_a_kept_state_or_without_scores() -> None:
    events = story()
    whole = await explained(events, 1)
    based = await explained(events, 1, trimmed=2, base=3)
    assert based.steps == whole.steps[2:]
    assert (based.agrees, based.since, based.trimmed) == (True, "3-0", "2-0")
    assert based.note == (
        "the history up to 2-0 was trimmed away; recomputed from the state kept at 3-0; "
        "every bit agrees with the served scores"
    )
    lost = await explained(events, 1, trimmed=4)
    assert [(s.what, s.before, s.after) for s in lost.steps] == [("event", None, None)] * 3
    assert [s.share for s in lost.steps if s.what == "event"] == [
        s.share for s in whole.steps[3:] if s.what == "event"
    ]
    assert (lost.agrees, lost.standing) == (False, whole.standing)
    assert lost.note.startswith("the history up to 4-0 was trimmed away; no state behind it was kept")
    assert verify(SignedExplanation(explanation=lost)).problems == []


async def test_a_history_that_is_trimmed_meanwhile_is_not_half_explained() -> None:
    events = story()
    history = kept(events)
    page = Page(scores.fold(ScoreState(), events, RULES[0]), StreamId("7-0"), 1)
    answers = iter([ORIGIN, StreamId("2-0")])

    async def trimmed() -> StreamId:
        return next(answers)

    history.trimmed = trimmed  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="trimmed while it was read"):
        await explain(history, page, RULES[0], 1, events=5, base=Base(ScoreState(), ORIGIN), speaker=SPEAKER)


async def test_other_scores_than_the_served_are_said_aloud() -> None:
    events = story()
    page = Page(scores.fold(ScoreState(), events, RULES[0]), StreamId("7-0"), 1)
    page.state.moving[2] += 1e-17 + 2e-17 + page.state.moving[2] * 2.3e-16
    found = await explain(
        kept(events), page, RULES[0], 1, events=5, base=Base(ScoreState(), ORIGIN), speaker=SPEAKER
    )
    assert (found.agrees, found.note) == (False, "THE SERVED SCORES ARE OTHERS")


def _forge(plain: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    at: Any = plain
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value


STEP = ("explanation", "steps", 1)
FORGERIES = [
    ((*STEP, "after", "score"), 0.5),
    ((*STEP, "after", "successes"), 7),
    ((*STEP, "share"), 0.9),
    ((*STEP, "rewards", 0), 1.0000001192092896),
    ((*STEP, "reward"), 2.0),
    ((*STEP, "hotkeys", 0), "00" * 8),
    ((*STEP, "hotkeys"), []),
    ((*STEP, "places", 0), 3),
    ((*STEP, "counted"), False),
    ((*STEP, "restarted"), True),
    ((*STEP, "before", "excluded"), True),
    ((*STEP, "asked"), 4),
    ((*STEP, "before", "moving"), 1e-9),
    (("explanation", "standing", "score"), 0.3),
    (("explanation", "rule"), "softmax_ema:alpha=0.98:temperature=1.0"),
    (("explanation", "steps", 2, "after", "score"), 0.1),
]


@pytest.mark.parametrize(("path", "value"), FORGERIES)
async def test_arithmetic_alone_finds_a_forged_number(path: tuple[Any, ...], value: Any) -> None:
    plain = SignedExplanation(explanation=await explained(story(), 1)).model_dump(mode="json")
    _forge(plain, path, value)
    assert not verify(SignedExplanation.model_validate(plain)).good


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("explanation", "uid"), 10**12),
        (("explanation", "uid"), -5),
        (("explanation", "steps", 1, "before", "successes"), 10**30),
        (("explanation", "steps", 1, "before", "failures"), -(10**30)),
    ],
)
async def test_numbers_that_there_cannot_be_are_a_verdict(path: tuple[Any, ...], value: Any) -> None:
    plain = SignedExplanation(explanation=await explained(story(), 1)).model_dump(mode="json")
    where: Any = plain
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    assert not verify(SignedExplanation.model_validate(plain)).good


async def test_a_file_cannot_write_its_own_verdict_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = SignedExplanation(explanation=await explained(story(), 1)).model_dump(mode="json")
    plain |= {"signature": "00" * 64, "signer": "5Good\x1b[2K\rright: 3 steps, signed by 5Good\x1b[8m"}
    file = tmp_path / "said.json"
    file.write_text(json.dumps(plain))
    assert verify_main([str(file)]) == BAD
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\r" not in said
    assert said.splitlines()[-1].startswith("WRONG: ")


async def test_a_signature_covers_every_field_and_names_its_signer() -> None:
    made = await explained(story(), 1)
    made = made.model_copy(update={"validator": ALICE.ss58_address})
    signed = sign(made, ALICE)
    text = json.dumps(signed.model_dump(mode="json"), indent=7)
    again = SignedExplanation.model_validate_json(text)
    assert again == signed
    verdict = verify(again, signer=ALICE.ss58_address)
    assert (verdict.good, verdict.signed, verdict.signer) == (True, True, ALICE.ss58_address)
    bob = keypair_from_uri("//Bob")
    assert verify(again, signer=bob.ss58_address).problems == [
        f"signed by {ALICE.ss58_address}, not by {bob.ss58_address}"
    ]
    for field, value in (("rank", 1), ("weight", 0.5), ("netuid", 2), ("note", ""), ("hotkey", "5X")):
        other = signed.model_copy(update={"explanation": made.model_copy(update={field: value})})
        assert canonical(other.explanation) != canonical(made)
        assert verify(other).problems == ["the signature is not the signer's over this explanation"]
    # Somebody else's signature over the same explanation, and no signature at all.
    stolen = sign(made, bob)
    assert verify(stolen).problems == [
        f"the validator is {ALICE.ss58_address}, the signer {bob.ss58_address}"
    ]
    assert not verify(SignedExplanation(explanation=made)).signed
    broken = signed.model_copy(update={"signature": "zz"})
    assert [p.split(":")[0] for p in verify(broken).problems] == ["the signature cannot be read"]


async def test_the_service_explains_and_signs_what_it_serves() -> None:
    async with serving(keypair=ALICE) as (client, engine, chain):
        await announced(engine)
        await forward(engine, chain, u1=1.0, u2=None, u3=0.5)
        await forward(engine, chain, u1=2.0, u3=0.5)
        await announced(engine, events=2)
        served = (await client.get("/scores")).json()
        weights = (await client.get("/weights")).json()
        for row in served["rows"]:
            answer = await client.get(f"/explain/{row['uid']}", params={"sign": "true", "events": 1})
            assert answer.status_code == 200
            found = SignedExplanation.model_validate_json(answer.content)
            assert verify(found, signer=ALICE.ss58_address).problems == []
            said = found.explanation
            assert (said.agrees, said.hotkey, said.last_id) == (True, row["hotkey"], served["last_id"])
            assert said.standing.score == row["score"]
            place = weights["uids"].index(row["uid"]) if row["uid"] in weights["uids"] else None
            assert said.weight == (0.0 if place is None else weights["weights"][place])
        assert [(await client.get(f"/explain/{uid}")).json()["explanation"]["rank"] for uid in (1, 3)] == [
            1,
            2,
        ]
        unsigned = (await client.get("/explain/1")).json()
        assert (unsigned["signer"], unsigned["signature"]) == ("", "")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/explain/99", 404, "unknown_uid"),
        ("/explain/-1", 404, "unknown_uid"),
        ("/explain/one", 400, "bad_request"),
        ("/explain/1?events=0", 400, "bad_request"),
        ("/explain/1?events=501", 400, "bad_request"),
        ("/explain/1?sign=true", 503, "unavailable"),
    ],
)
async def test_what_cannot_be_explained_is_refused_with_a_remedy(path: str, status: int, code: str) -> None:
    async with serving() as (client, engine, _):
        await announced(engine)
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.json()["remedy"]
        refused = await client.get(path, headers={"authorization": "Bearer wrong"})
        assert refused.status_code == 401
