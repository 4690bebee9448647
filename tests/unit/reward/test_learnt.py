"""What a stack remembers: common phrases and what was said to other prompts."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from coremesh.events import Flag, ForwardEvent, Message, decode, encode, forward_event
from coremesh.history.protocol import Entry
from coremesh.modelfiles import MINILM
from coremesh.types import StreamId, new_event_id
from services.reward.batch import Batch, Kind, Turn
from services.reward.fold import StatisticsFold, shadow_prefix
from services.reward.learnt import MOST_PHRASES, CommonPhrases, Recent, columns_of, signs_of
from services.reward.masks.history import History, simhash
from services.reward.masks.phrases import FEWEST_EVENTS, Phrases
from services.reward.models import EncoderOps, Models
from services.reward.stack import Learnt
from services.reward.statistics import Statistics
from services.reward.work import Inline

CANNED = "That is a very interesting question and there are many different views on the matter to consider."
FACTS = {
    "How do vaccines train the immune system?": (
        "A vaccine shows the body a harmless piece of a germ, so that it makes antibodies and memory cells.",
        "They present a weakened pathogen to immune cells, which remember it when the disease arrives later.",
    ),
    "How do I make a good risotto?": (
        "Keep stirring the rice and add the hot stock one ladle at a time until it turns creamy.",
        "Toast the grains in butter first, pour in some wine, then feed them broth slowly and finish with cheese.",
    ),
    "Why did the Roman republic fall?": (
        "Generals with private armies and ruined small farmers broke the rule of the senate within a century.",
        "Conquest made a few men too rich for any law, and civil wars ended with one of them as emperor.",
    ),
    "What keeps a satellite in orbit?": (
        "It falls towards the earth all the time but moves sideways so fast that it keeps missing the ground.",
        "Gravity bends its path into a closed curve, and above the air nothing slows it down for years.",
    ),
}


@functools.cache
def masks() -> dict[str, Learnt]:
    encoder: EncoderOps = Models().encoder(MINILM)
    history = History(encoder, history=60, slope=40, offset=4, nearest=2, floor=0.0)
    return {"phrases": Phrases(common=0.08), "history": history}


def batch(question: str, *completions: str, kind: Kind = "answer") -> Batch:
    return Batch((Turn("user", question),), completions, kind, Inline())


async def event(question: str, *completions: str, state: Statistics, prefix: str = "") -> ForwardEvent:
    """As recorded: float32 columns, with a uid between that did not answer."""
    parts: dict[str, np.ndarray] = {}
    for name, mask in masks().items():
        for key, column in columns_of(name, await mask.signs(batch(question, *completions), state)).items():
            parts[prefix + key] = np.array([column[0], np.nan, *column[1:]], dtype=np.float32)
    n = len(completions) + 1
    made = forward_event(
        id=new_event_id(),
        time_ms=0,
        block=1,
        kind="answer",
        flags=Flag.SCORED,
        messages=(Message("user", question),),
        uids=list(range(n)),
        hotkeys=[f"5H{i}" for i in range(n)],
        status=[0] * n,
        latency_s=[0.1] * n,
        rewards=[1.0] * n,
        parts=parts,
        stack_version="v1",
    )
    assert sum(4 for _ in parts) <= 64, "bytes a uid"
    return decode(encode(made))  # type: ignore[return-value]


async def learnt(rounds: int, fold: StatisticsFold) -> tuple[Statistics, list[Entry]]:
    """The state after ``rounds`` times all questions, each with two honest answers and the canned one."""
    state, history = fold.initial(), []
    for _ in range(rounds):
        for question, facts in FACTS.items():
            entry = Entry(
                StreamId(f"{len(history) + 1}-0"), await event(question, *facts, CANNED, state=state)
            )
            history.append(entry)
            state = await fold.apply(state, [entry])
    return state, history


async def factors(name: str, state: Statistics, question: str, *completions: str) -> list[float]:
    mask = masks()[name]
    rows = (await mask.signs(batch(question, *completions), state)).tolist()
    return list(mask.op.run([(row, state) for row in rows]))


async def test_what_many_say_to_everything_is_common():
    fold = StatisticsFold("v1", {}, masks())
    state, history = await learnt(FEWEST_EVENTS // len(FACTS) + 2, fold)
    assert state.version == len(history)
    fresh = "Why is the sky blue?"
    wrapped = f"{CANNED} Blue light scatters more than red light does."
    said = await factors("phrases", state, fresh, wrapped, "Blue light scatters more than red.", "", "no")
    assert said == [0.0, 1.0, 1.0, 1.0]
    early, _ = await learnt(2, fold)
    assert await factors("phrases", early, fresh, wrapped) == [1.0]


async def test_what_was_said_to_other_prompts_is_worth_less():
    state, _ = await learnt(1, StatisticsFold("v1", {}, masks()))
    (question, facts), *_ = FACTS.items()
    asked_again = await factors("history", state, question, *facts, CANNED, " ")
    assert asked_again == [pytest.approx(1.0, abs=0.01)] * 2 + [pytest.approx(0.018, abs=0.002), 1.0]
    elsewhere = await factors("history", state, "Why is the sky blue?", CANNED, "Air scatters blue light.")
    assert elsewhere == [pytest.approx(0.018, abs=0.002), pytest.approx(1.0, abs=0.01)]
    assert await factors("history", Statistics(), question, CANNED) == [1.0]


async def test_the_fold_is_the_same_however_it_is_cut_and_whoever_recorded():
    fold = StatisticsFold("v1", {}, masks())
    state, history = await learnt(8, fold)
    whole = await fold.apply(fold.initial(), history)
    assert fold.load(fold.dump(state)) == state == whole
    assert len(whole.recent.signs) == 60
    assert whole.recent.signs.max() > 2**23, "nothing was rounded away"
    assert await StatisticsFold("v2", {}, masks()).apply(fold.initial(), history) == Statistics()
    shadowed = [
        Entry(StreamId("1-0"), await event("Why?", CANNED, state=Statistics(), prefix=shadow_prefix("v2")))
    ]
    assert (await StatisticsFold("v2", {}, masks()).apply(fold.initial(), shadowed)).version == 1
    assert (await fold.apply(fold.initial(), shadowed)).version == 0


def test_signatures_survive_float32_and_nonsense_is_left_out():
    signs = np.array([[0, 2**24 - 1], [-1, 12_345_677]])
    columns = {key: np.array(c, dtype=np.float32) for key, c in columns_of("m", signs).items()}
    assert (signs_of("m", 2, columns) == signs).all()  # type: ignore[union-attr]
    bad = {"sign:m:0": np.array([np.nan, np.inf, -2, 3e9, 5]), "sign:m:1": np.array([1, 1, 1, 1, 6])}
    assert signs_of("m", 2, bad).tolist() == [[5, 6]]  # type: ignore[union-attr]
    assert signs_of("m", 3, columns) is None


def test_memory_is_bounded_and_the_common_stays():
    draw = np.random.default_rng(5)
    known, recent = CommonPhrases(), Recent()
    for _ in range(300):
        signs = draw.integers(1, 2**24, (50, 8))
        signs[:6, 0] = 0
        known.add(signs)
        recent = recent.added(signs[:, :7], 500)
        assert len(known.counts) <= MOST_PHRASES
    assert known.share(0) == pytest.approx(0.12, abs=0.001)
    assert len(recent.signs) == 500
    assert (recent.signs[-50:] == signs[:, :7]).all()


def test_old_events_fade():
    known = CommonPhrases()
    for code in [1] * 3000 + [2] * 30_000:
        known.add(np.full((10, 1), code))
    assert known.events == pytest.approx(2000, rel=0.01)
    assert known.share(1) < 1e-5
    assert known.share(2) == pytest.approx(1.0, abs=1e-5)
    assert known.weight < 1e9


def test_simhash_estimates_angles():
    draw = np.random.default_rng(3)
    a = draw.standard_normal((200, 384)).astype(np.float32)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = a + 0.3 * np.linalg.norm(a, axis=1, keepdims=True) * a[::-1]
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    differ = np.bitwise_count(simhash(a) ^ simhash(b)).sum(axis=1) / 144 * np.pi
    angles = np.arccos((a * b).sum(axis=1))
    assert np.abs(differ - angles).max() < 0.4
    assert abs((differ - angles).mean()) < 0.05
