"""Every way a submission can go, on a chain and a history in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from coremesh.errors import ChainUnavailable, HistoryUnavailable, LeaseLost
from coremesh.history import Checkpoint, Lease, Submission
from coremesh.metagraph import Hyperparameters, difference
from coremesh.settings import WeightsSettings
from coremesh.types import ORIGIN, StreamId
from services.weights.book import Book
from services.weights.chain import Sent
from services.weights.fold import NAME, ScoreFold
from services.weights.ledger import LOOKED_BACK, Ledger
from services.weights.replay import replay
from services.weights.submitter import Submitter
from tests.events import make_event
from tests.fakes.history import MemoryHistory
from tests.unit.weights.fake_chain import FakeChain, Killed


@dataclass
class Bench:
    history: MemoryHistory
    chain: FakeChain
    book: Book
    submitter: Submitter
    ledger: Ledger
    lease: Lease
    leads: bool = True
    stops_after: int = 1000
    """The process is stopped, for longer than its lease, after being asked so often whether it leads."""

    async def publish(self) -> None:
        new = await self.chain.metagraph()
        old = await self.history.metagraph()
        await self.history.publish(new, difference(old, new), self.lease)
        await self.fold()

    async def forward(self, time_ms: int = 1_700_000_000_000, **rewards: float | None) -> None:
        """``u1=0.5`` rewards uid 1."""
        event = make_event(
            {int(name[1:]): reward for name, reward in rewards.items()},
            hotkeys={int(name[1:]): self.chain.hotkeys[int(name[1:])] for name in rewards},
        )
        event = msgspec.structs.replace(event, time_ms=time_ms)
        await self.history.append(event, None, self.chain.hotkeys)
        await self.fold()

    async def fold(self) -> None:
        fold = ScoreFold(self.book.rule)
        checkpoint = await self.history.load(NAME)
        state = fold.load(checkpoint.state) if checkpoint else fold.initial()
        at = checkpoint.last_id if checkpoint else ORIGIN
        entries = await self.history.read(at, 10_000)
        if not entries:
            return
        state = await fold.apply(state, entries)
        draft = Checkpoint(last_id=entries[-1].stream_id, state=fold.dump(state), format=fold.format)
        self.book.turn(await self.history.save(NAME, draft, self.lease, at))

    async def step(self, blocks: int = 1) -> None:
        self.chain.advance(blocks)
        metagraph = await self.history.metagraph()
        assert metagraph is not None
        await self.submitter.step(self.lease, await self.chain.tick(), metagraph, self._leads)

    def _leads(self) -> bool:
        self.stops_after -= 1
        return self.leads and self.stops_after >= 0

    async def records(self) -> list[tuple[str, str]]:
        """Results with the beginnings of their reasons, oldest first."""
        found = [entry.submission for entry in await self.history.submissions(1000)]
        return [(s.result, s.reason.split(":")[0]) for s in reversed(found)]

    async def newest(self) -> Submission:
        return (await self.history.submissions(1))[0].submission


async def bench(chain: FakeChain | None = None, **settings: object) -> Bench:
    history = MemoryHistory()
    chain = chain or FakeChain()
    wanted = WeightsSettings(**settings)  # type: ignore[arg-type]
    book, ledger = Book(wanted), Ledger(history)
    lease = await history.acquire("weights", "me", timedelta(seconds=60))
    assert lease is not None
    made = Bench(history, chain, book, Submitter(ledger, chain, book, wanted), ledger, lease)
    await made.publish()
    return made


class Answers:
    """Something with one of its methods replaced."""

    def __init__(self, whole: Any, **methods: Any) -> None:
        self._whole = whole
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


def sealed(**given: int) -> FakeChain:
    return FakeChain(hyperparameters=Hyperparameters(tempo=20, rate_limit=5, commit_reveal=True, **given))


async def test_weights_land_once_an_epoch_as_proposed() -> None:
    b = await bench()
    await b.forward(u1=1.0, u2=1.0, u3=None)
    await b.step()
    # Two equal miners alone would be all equal weights: held until they differ.
    assert await b.records() == [("held", "all weights are equal although events were scored")]
    await b.forward(u1=2.0, u2=1.0, u3=None)
    await b.step()
    newest = await b.newest()
    assert await b.records() == [
        ("held", "all weights are equal although events were scored"),
        ("sent", ""),
        ("landed", ""),
    ]
    assert b.chain.weights == dict(zip(newest.uids, newest.values, strict=True))
    assert max(b.chain.weights, key=b.chain.weights.__getitem__) == 1
    assert newest.landed_block == b.chain.block
    assert newest.last_id == b.book.page.last_id
    for _ in range(15):
        await b.step()
    assert len(await b.records()) == 3  # set in this epoch
    await b.forward(u1=2.0, u2=1.0)
    await b.step(5)
    assert [r for r, _ in await b.records()][3:] == ["sent", "landed"]


async def test_without_history_weights_are_equal_or_nothing_is_set() -> None:
    b = await bench()
    await b.step()
    assert b.chain.weights == {0: 65535, 1: 65535, 2: 65535, 3: 65535}
    b = await bench(no_history="skip")
    await b.step()
    assert await b.records() == [("held", "there is nothing to set")]


async def test_a_refusal_is_recorded_and_tried_again_within_the_epoch() -> None:
    b = await bench()
    b.chain.refuses = Sent(False, True, "not_authorized", "no")
    await b.step()
    assert await b.records() == [("sent", ""), ("failed", "not_authorized")]
    await b.step()
    assert len(await b.records()) == 2  # two blocks to wait
    await b.step()
    assert [r for r, _ in await b.records()] == ["sent", "failed", "sent", "landed"]
    assert b.chain.epoch_start == 100


async def test_a_lost_answer_is_settled_by_reading_the_chain_back() -> None:
    b = await bench()
    b.chain.loses_answer = True
    await b.step()
    assert await b.records() == [("sent", ""), ("landed", "")]
    assert b.chain.calls.count("set_weights") == 1


async def test_an_answer_lost_with_its_extrinsic_is_sent_again_at_once_under_the_same_record() -> None:
    b = await bench()
    b.chain.refuses = Sent(False, False, "unknown", "may already be on chain")
    await b.step()
    await b.step()
    assert await b.records() == [("sent", ""), ("sent", ""), ("landed", "")]
    assert len({entry.submission.id for entry in await b.history.submissions(10)}) == 1
    assert b.chain.calls.count("set_weights") == 2


async def test_what_waits_in_the_pool_is_waited_for_and_not_sent_again() -> None:
    b = await bench()
    b.chain.holds = True
    for _ in range(6):
        await b.step()
    assert await b.records() == [("sent", "")]
    b.chain.advance()
    b.chain.include(b.chain.pending or {})
    await b.step()
    assert await b.records() == [("sent", ""), ("landed", "")]
    assert b.chain.calls.count("set_weights") == 1


async def test_what_fell_out_of_the_pool_is_sent_again_or_given_up_when_it_can_land_no_more() -> None:
    b = await bench()
    b.chain.holds = True
    await b.step()
    b.chain.holds, b.chain.pending = False, None
    await b.step()
    await b.step()
    assert [r for r, _ in await b.records()] == ["sent", "sent", "landed"]
    b.chain.advance(20)
    b.chain.holds = True
    await b.step()
    for _ in range(16):
        await b.step()
        assert [r for r, _ in await b.records()][3:] == ["sent"]
    b.chain.holds = False
    await b.step()
    assert (await b.records())[4] == ("failed", "it did not show up on the chain (the answer was lost)")
    b.chain.pending = None
    for _ in range(3):
        await b.step()
    assert [r for r, _ in await b.records()][5:] == ["sent", "landed"]


async def test_a_former_leaders_extrinsic_that_lands_before_ours_is_the_same_submission() -> None:
    """The heir finds nothing on the chain nor in the pool and sends again; then the old one arrives and wins."""
    b = await bench()
    await b.forward(u1=2.0, u2=1.0)
    b.stops_after = 1
    await b.step()
    sent = await b.newest()
    await b.forward(u1=1.0, u2=9.0)  # the heir would propose another vector
    b.stops_after = 1000
    b.ledger = Ledger(b.history)
    b.submitter = Submitter(b.ledger, b.chain, b.book, WeightsSettings())
    await b.submitter.take_over()
    b.chain.refuses = Sent(False, True, "invalid", "priority is too low: another holds that nonce")
    await b.step()
    assert [r for r, _ in await b.records()] == [
        "sent",
        "sent",
    ]  # refused for certain, but the other may land
    b.chain.advance()
    b.chain.include(dict(zip(sent.uids, sent.values, strict=True)))
    await b.step()
    newest = await b.newest()
    assert (newest.id, newest.result) == (sent.id, "landed")
    assert b.chain.weights == dict(zip(sent.uids, sent.values, strict=True))


async def test_a_chain_that_is_away_raises_and_is_asked_again() -> None:
    b = await bench()
    b.chain.away = True
    tick_before = b.chain.block
    with pytest.raises(ChainUnavailable):
        await b.step()
    b.chain.away = False
    await b.step()
    assert [r for r, _ in await b.records()] == ["sent", "landed"]
    assert b.chain.block > tick_before


async def test_a_commit_is_followed_to_its_reveal() -> None:
    b = await bench(sealed())
    await b.forward(u1=2.0, u2=1.0)
    await b.step()
    assert await b.records() == [("sent", ""), ("committed", "")]
    assert b.chain.weights == {}
    await b.step(20)
    assert [r for r, _ in await b.records()][:3] == ["sent", "committed", "revealed"]
    first = next(e.submission for e in await b.history.submissions(10) if e.submission.result == "revealed")
    assert b.chain.weights == dict(zip(first.uids, first.values, strict=True))


async def test_a_commit_that_comes_to_nothing_is_noticed() -> None:
    chain = sealed()
    chain.reveals = False
    b = await bench(chain)
    await b.step()
    await b.step(20)
    assert (await b.records())[2] == (
        "failed",
        "the reveal came to nothing",
    )


async def test_of_several_commits_revealed_while_nobody_looked_only_the_last_can_be_told() -> None:
    b = await bench(sealed(reveal_period=3))
    rewards = [{"u1": 2.0, "u2": 1.0}, {"u1": 1.0, "u2": 3.0}, {"u2": 1.0, "u3": 4.0}]
    for given in rewards:
        await b.forward(**given)
        await b.step(20 if b.chain.calls.count("set_weights") else 1)
        b.chain.hold_reveals = True
    assert [r for r, _ in await b.records()] == ["sent", "committed"] * 3
    b.chain.hold_reveals = False
    b.chain.advance(20)  # all three at once, in their order
    b.chain.commits.clear()
    await b.step(0)
    assert (await b.records())[6:9] == [
        ("superseded", "a later commit was due before anyone looked whether this one was revealed"),
        ("superseded", "a later commit was due before anyone looked whether this one was revealed"),
        ("revealed", ""),
    ]
    assert b.ledger.sealed == []


async def test_a_commit_whose_successor_landed_plainly_is_superseded() -> None:
    b = await bench(sealed())
    await b.forward(u1=2.0, u2=1.0)
    await b.step()
    b.chain.hyperparameters = Hyperparameters(tempo=20, rate_limit=5)
    b.chain.hold_reveals = True
    await b.forward(u1=1.0, u2=3.0)
    await b.step(20)
    assert [r for r, _ in await b.records()] == ["sent", "committed", "sent", "landed"]
    b.chain.commits.clear()
    await b.step()
    assert (await b.records())[4][0] == "superseded"
    assert "later weights landed at block 123" in (await b.records())[4][1]


async def test_every_submission_comes_to_an_end_that_says_why() -> None:
    """Whatever happens to a hundred of them."""
    random = Random(3)
    chain = sealed()
    b = await bench(chain)
    for _ in range(300):
        await b.publish()
        await b.forward(u1=random.random(), u2=random.random(), u3=random.random())
        chain.hyperparameters = Hyperparameters(tempo=20, rate_limit=5, commit_reveal=random.random() < 0.7)
        chain.loses_answer = random.random() < 0.2
        chain.reveals, chain.hold_reveals = random.random() < 0.8, random.random() < 0.4
        chain.refuses = Sent(False, random.random() < 0.5, "x", "no") if random.random() < 0.2 else None
        chain.killed = random.random() < 0.1
        try:
            await b.step(random.choice([1, 3, 20, 45]))
        except Killed:
            b.ledger = Ledger(b.history)
            b.submitter = Submitter(b.ledger, chain, b.book, WeightsSettings())
            await b.submitter.take_over()
    chain.killed, chain.refuses, chain.loses_answer, chain.hold_reveals = False, None, False, False
    await b.step(20)
    await b.step(20)
    last: dict[str, Submission] = {}
    for entry in await b.history.submissions(10_000):
        last.setdefault(entry.submission.id, entry.submission)
    ended = [s for s in last.values() if s.id not in {u.id for u in b.ledger.sealed}]
    assert len(ended) > 100
    assert {s.result for s in ended} >= {"landed", "revealed", "superseded", "failed"}
    assert not [s for s in ended if s.result in ("sent", "committed")]
    assert not [s for s in ended if s.result in ("superseded", "failed") and not s.reason]


@pytest.mark.parametrize(
    ("chain", "settings", "reason"),
    [
        (FakeChain(permit=False), {}, "our hotkey has no validator permit"),
        (FakeChain(hotkeys=["a", "b", "c", "d"]), {}, "our hotkey is not registered on the subnet"),
        (
            FakeChain(hyperparameters=Hyperparameters(tempo=20, rate_limit=5, version_key=7)),
            {"version_key": 6},
            "our version key is 6, the subnet asks for 7",
        ),
    ],
)
async def test_what_would_fail_in_silence_is_held(chain: FakeChain, settings: dict, reason: str) -> None:
    b = await bench(chain, **settings)
    await b.step()
    await b.step()
    assert await b.records() == [("held", reason)]
    assert "set_weights" not in chain.calls


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"min_events": 3}, "few_events"),
        ({"min_miners": 3}, "few_miners"),
        ({"max_event_age_s": 60.0}, "stale_events"),
        ({"max_metagraph_age_blocks": 3}, "stale_metagraph"),
    ],
)
async def test_what_the_gate_holds_alerts_and_goes_out_once_its_reason_is_gone(
    settings: dict, code: str
) -> None:
    b = await bench(**settings)
    await b.forward(u1=2.0, u2=1.0)
    await b.step(5)
    if code != "stale_metagraph":
        await b.publish()
    assert [reason.code for reason in b.submitter.reasons] == [code]
    assert (await b.records())[0][0] == "held"
    assert REGISTRY.get_sample_value("coremesh_weights_held", {"reason": code}) == 1.0
    assert REGISTRY.get_sample_value("coremesh_weights_due") == 1.0
    await b.step()
    assert len(await b.records()) == 1  # said once, looked at on every block
    await b.publish()
    for _ in range(2):
        await b.forward(time_ms=time.time_ns() // 1_000_000, u1=2.0, u2=1.0, u3=0.5)
    await b.step()
    assert [r for r, _ in await b.records()] == ["held", "sent", "landed"]
    assert REGISTRY.get_sample_value("coremesh_weights_held", {"reason": code}) is None


async def test_a_score_that_is_no_number_is_held_whatever_an_operator_says() -> None:
    b = await bench()
    await b.forward(u1=2.0, u2=1.0)
    b.book.page.state.moving[1] = float("nan")
    b.submitter.override_once()
    await b.step()
    assert await b.records() == [("held", "a score is not a finite number")]


async def test_the_version_key_is_the_subnets_unless_the_operator_names_one() -> None:
    chain = FakeChain(hyperparameters=Hyperparameters(tempo=20, rate_limit=5, version_key=7))
    b = await bench(chain)
    await b.step()
    assert (await b.newest()).version_key == 7


async def test_a_held_submission_passes_when_its_reason_is_gone_or_an_operator_says_so() -> None:
    b = await bench(max_move=0.1)
    await b.forward(u1=5.0, u2=1.0)
    await b.step()
    await b.forward(u1=-50.0, u2=50.0)
    for _ in range(60):
        await b.forward(u1=-50.0, u2=50.0)
    await b.step(20)
    assert [r for r, _ in await b.records()] == ["sent", "landed", "held"]
    assert [reason.code for reason in b.submitter.reasons] == ["moved"]
    b.submitter.override_once()
    await b.step()
    assert [r for r, _ in await b.records()][3:] == ["sent", "landed"]
    for _ in range(300):
        await b.forward(u1=50.0, u2=-50.0)
    await b.step(20)
    assert (await b.newest()).result == "held"  # once means once


async def test_few_events_hold_until_the_activity_cutoff_is_near() -> None:
    chain = FakeChain(hyperparameters=Hyperparameters(tempo=20, rate_limit=5, activity_cutoff=100))
    b = await bench(chain, min_events=5, min_miners=2)
    await b.forward(u1=2.0, u2=1.0)
    await b.step()
    assert [reason.code for reason in b.submitter.reasons] == ["few_events"]
    for _ in range(4):
        await b.forward(u1=2.0, u2=1.0)
    await b.step()
    assert (await b.newest()).result == "landed"
    landed = b.chain.block
    await b.step(25)
    assert [reason.code for reason in b.submitter.reasons] == ["few_events", "few_miners"]
    while b.chain.block - landed < 79:
        await b.step()
    assert (await b.newest()).result == "held"
    await b.step()
    assert (await b.newest()).result == "landed"


async def held_at_the_cutoff(**settings: object) -> tuple[Bench, Submission]:
    """Weights landed at block 151; what came after is held for moving too far, and the cutoff is about to be near."""
    chain = FakeChain(hyperparameters=Hyperparameters(tempo=20, rate_limit=5, activity_cutoff=100))
    b = await bench(chain, max_move=0.1, **settings)
    await b.forward(u1=3.0, u2=1.0)
    await b.step(50)
    landed = await b.newest()
    assert landed.result == "landed"
    for _ in range(200):
        await b.forward(u1=1.0, u2=3.0)
    while b.chain.block - landed.landed_block < 79:
        await b.step()
    assert [reason.code for reason in b.submitter.reasons] == ["moved"]
    assert (await b.newest()).result == "held"
    return b, landed


async def test_near_the_activity_cutoff_held_weights_leave_the_last_ones_to_be_set_again() -> None:
    b, landed = await held_at_the_cutoff()
    await b.step()
    newest = await b.newest()
    assert (newest.result, newest.landed_block) == ("landed", b.chain.block)
    assert (newest.uids, newest.values, newest.last_id) == (landed.uids, landed.values, landed.last_id)
    assert newest.id != landed.id
    assert b.chain.last_update[0] == b.chain.block
    # The reason is still shown, and nothing more is sent before the cutoff is near again.
    calls = b.chain.calls.count("set_weights")
    await b.step(60)
    assert [reason.code for reason in b.submitter.reasons] == ["moved"]
    assert b.chain.calls.count("set_weights") == calls
    report = await replay(b.history)
    assert (report.provable, report.equal) == (True, True), report


async def test_who_takes_over_after_many_held_records_still_knows_the_last_weights() -> None:
    b, landed = await held_at_the_cutoff()
    held = await b.newest()
    for _ in range(2 * LOOKED_BACK):
        await b.ledger.record(held, b.lease)
    await b.submitter.take_over()
    assert b.ledger.newest is not None
    assert b.ledger.newest.id == landed.id
    await b.step()
    assert [reason.code for reason in b.submitter.reasons] == ["moved"]


async def test_weights_of_somebody_who_is_gone_are_not_set_again() -> None:
    b, landed = await held_at_the_cutoff()
    assert 1 in landed.uids
    b.chain.hotkeys[1] = "5Newcomer"
    await b.publish()
    await b.step()
    assert b.chain.last_update[0] == landed.landed_block
    assert (await b.newest()).result == "held"


async def test_a_reason_of_ours_holds_the_last_weights_too() -> None:
    b, landed = await held_at_the_cutoff()
    b.chain.permit = False
    await b.step(5)
    assert {reason.code for reason in b.submitter.reasons} == {"moved", "no_permit"}
    assert b.chain.last_update[0] == landed.landed_block


async def test_a_dry_run_records_and_sends_nothing() -> None:
    b = await bench(dry_run=True)
    await b.step()
    await b.step()
    assert await b.records() == [("dry_run", "")]
    assert "set_weights" not in b.chain.calls


async def test_a_stale_leader_can_neither_record_nor_send() -> None:
    b = await bench()
    await b.history.release(b.lease)
    assert await b.history.acquire("weights", "another", timedelta(seconds=60))
    with pytest.raises(LeaseLost):
        await b.step()
    assert "set_weights" not in b.chain.calls
    b.leads = False
    b.lease = Lease("weights", "me", b.lease.token)
    await b.step()
    assert await b.records() == []


async def test_a_leader_stopped_after_its_record_sends_nothing_when_it_wakes() -> None:
    b = await bench()
    await b.forward(u1=2.0, u2=1.0)
    b.stops_after = 1
    await b.step()
    assert await b.records() == [("sent", "")]
    assert "set_weights" not in b.chain.calls
    heir = await b.history.acquire("weights", "me", timedelta(seconds=60))
    assert heir is not None
    b.lease, b.stops_after = heir, 1000
    b.ledger = Ledger(b.history)
    b.submitter = Submitter(b.ledger, b.chain, b.book, WeightsSettings())
    await b.submitter.take_over()
    await b.step(33)
    for _ in range(16):
        assert await b.records() == [("sent", "")]  # it may still have been signed, and arrive
        await b.step()
    await b.step()
    await b.step(2)
    assert await b.records() == [
        ("sent", ""),
        ("failed", "it did not show up on the chain"),
        ("sent", ""),
        ("landed", ""),
    ]


@pytest.mark.parametrize("commit_reveal", [False, True])
async def test_who_takes_over_soon_sends_what_never_arrived(commit_reveal: bool) -> None:
    b = await bench(sealed() if commit_reveal else FakeChain())
    await b.forward(u1=2.0, u2=1.0)
    b.stops_after = 1
    await b.step()
    assert "set_weights" not in b.chain.calls
    b.stops_after = 1000
    b.ledger = Ledger(b.history)
    b.submitter = Submitter(b.ledger, b.chain, b.book, WeightsSettings())
    await b.submitter.take_over()
    await b.step(2)
    await b.step(0)
    assert [r for r, _ in await b.records()] == ["sent", "sent", "committed" if commit_reveal else "landed"]
    assert len({entry.submission.id for entry in await b.history.submissions(10)}) == 1


async def test_a_leader_stopped_before_it_signs_signs_nothing() -> None:
    b = await bench()
    b.stops_after = 2  # asked before the record, after it, and by the signature
    await b.step()
    assert [r for r, _ in await b.records()] == ["sent", "failed"]
    assert (b.chain.weights, b.chain.last_update[0]) == ({}, 0)


async def test_a_record_whose_answer_is_lost_is_followed_to_its_end() -> None:
    b = await bench()
    submit, lost = b.history.submit, 1

    async def loses(submission: Submission, lease: Lease) -> StreamId:
        nonlocal lost
        place = await submit(submission, lease)
        if lost:
            lost -= 1
            raise HistoryUnavailable("the answer was lost")
        return place

    b.ledger = Ledger(Answers(b.history, submit=loses))  # type: ignore[arg-type]
    b.submitter = Submitter(b.ledger, b.chain, b.book, WeightsSettings())
    with pytest.raises(HistoryUnavailable):
        await b.step()
    await b.step()
    await b.step()
    assert [r for r, _ in await b.records()] == ["sent", "sent", "landed"]
    assert len({entry.submission.id for entry in await b.history.submissions(10)}) == 1


async def test_who_takes_over_settles_what_was_under_way() -> None:
    b = await bench(sealed())
    await b.forward(u1=2.0, u2=1.0)
    b.chain.killed = True
    with pytest.raises(Killed):
        await b.step()
    assert await b.records() == [("sent", "")]
    sent = await b.newest()
    await b.forward(u1=2.0, u2=1.0)
    b.ledger = Ledger(b.history)
    b.submitter = Submitter(b.ledger, b.chain, b.book, WeightsSettings())
    await b.submitter.take_over()
    await b.step()
    assert await b.records() == [("sent", ""), ("committed", "")]
    assert b.ledger.events == 1
    assert b.ledger.previous == dict(zip(sent.uids, sent.values, strict=True))
    await b.step(20)
    assert (await b.records())[2] == ("revealed", "")


async def test_the_minimum_number_of_weights_is_met_on_a_small_subnet() -> None:
    b = await bench(FakeChain(hyperparameters=Hyperparameters(tempo=20, rate_limit=5, min_weights=1024)))
    await b.forward(u1=2.0, u2=1.0)
    await b.step()
    assert (await b.newest()).result == "landed"
    assert len(b.chain.weights) == 4
    assert b.chain.weights[3] == 1  # the miner before the validator, both as little as can be
    assert b.chain.weights[0] == 1
