from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from coremesh.history import Checkpoint
from coremesh.history.keys import HOTKEY_MARGIN
from coremesh.metagraph import Metagraph, Neuron
from coremesh.settings import ChainSettings, WeightsSettings
from coremesh.types import ORIGIN, hotkey_digest
from services.weights.engine import Engine, FoldStuck
from services.weights.hotkeys import Forgetter
from services.weights.metrics import EPOCHS_MISSED
from services.weights.state import ScoreState
from tests.events import hotkey, make_event
from tests.fakes.history import MemoryHistory
from tests.unit.weights.fake_chain import FakeChain
from tests.wait import wait_until


def engine(
    history: MemoryHistory,
    chain: FakeChain | None = None,
    *,
    trim_folds: tuple[str, ...] = ("scores",),
    holder: str = "me",
    away_s: float = 300.0,
) -> Engine:
    return Engine(
        history,
        chain or FakeChain(),
        chain_settings=ChainSettings(sync_blocks=1),
        settings=WeightsSettings(interval_s=0.01, trim_s=0.02, keep_events=3, trim_folds=trim_folds),
        holder=holder,
        stuck_s=0.2,
        stall_s=0.2,
        away_s=away_s,
    )


async def test_a_fold_that_stands_still_while_events_wait_is_noticed() -> None:
    history = MemoryHistory()
    guarding = asyncio.create_task(engine(history).guard())
    await asyncio.sleep(0.4)  # nothing waits
    assert not guarding.done()
    await history.append(make_event({1: 1.0}), None, [hotkey(1)])
    with pytest.raises(FoldStuck):
        await asyncio.wait_for(guarding, 5)


async def test_a_standby_does_not_judge_the_leader() -> None:
    history = MemoryHistory()
    await history.append(make_event({1: 1.0}), None, [hotkey(1)])
    assert await history.acquire("weights", "another", timedelta(seconds=60))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine(history).guard(), 0.6)


async def test_the_leader_trims_what_was_folded() -> None:
    history = MemoryHistory()
    leader = engine(history)
    tasks = [asyncio.create_task(work) for work in (leader.fold(), leader.trim(), leader.guard())]
    for _ in range(10):
        await history.append(make_event({1: 1.0}), None, [hotkey(1)])

    async def trimmed() -> bool:
        return await history.length() == 3 and leader.book.page.state.events == 10

    await wait_until(trimmed)
    for task in tasks:
        task.cancel()
    assert [type(e) for e in await asyncio.gather(*tasks, return_exceptions=True)] == [
        asyncio.CancelledError
    ] * 3


async def test_the_leader_forgets_hotkeys_that_nothing_needs() -> None:
    class Forgetful(MemoryHistory):
        async def forget_hotkeys(self, keep: Collection[int], margin: timedelta = HOTKEY_MARGIN) -> int:
            return await super().forget_hotkeys(keep, timedelta(0))

    history = Forgetful()
    named = {
        name: hotkey_digest(hotkey(uid)) for uid, name in enumerate(("gone", "scored", "former", "there"))
    }
    for uid in range(3):
        await history.append(make_event({uid: 0.5}), None, [hotkey(uid)])
    lease = await history.acquire("weights", "me", timedelta(seconds=60))
    assert lease is not None
    neuron = Neuron(uid=3, hotkey=hotkey(3), coldkey="c", stake=1.0, permit=False)
    metagraph = Metagraph(netuid=1, block=1, time_ms=1, neurons=(neuron,))
    await history.publish(metagraph, None, lease)
    await history.save("scores", Checkpoint(last_id=await history.last_id(), state=b""), lease, ORIGIN)
    assert await history.trim(0, ("scores",)) == 3
    await history.append(make_event({3: 0.5}), None, [])
    state = ScoreState()
    state.resize(2)
    state.reset(1, named["scored"], 1)
    state.retire(1, named["former"])
    forgetter = Forgetter(history)
    assert await forgetter.step(state, None) == await forgetter.step(ScoreState(), metagraph) == 0, (
        "too early to say"
    )
    assert await forgetter.step(state, metagraph) == 1
    assert set(await history.resolve(list(named.values()))) == set(named.values()) - {named["gone"]}
    state.reset(1, named["there"], 2)
    assert await forgetter.step(state, metagraph) == 0, "not before a day has passed"


async def test_a_missed_epoch_is_counted_and_a_set_one_is_not() -> None:
    chain = FakeChain(permit=False)
    leader = engine(MemoryHistory(), chain)
    tasks = [asyncio.create_task(work) for work in (leader.fold(), leader.watch(), leader.submit())]
    before = EPOCHS_MISSED._value.get()
    await wait_until(lambda: leader.submitter.reasons)  # held for want of a permit
    chain.advance(20)
    await wait_until(lambda: EPOCHS_MISSED._value.get() == before + 1)
    chain.permit = True
    chain.advance(1)
    await wait_until(lambda: chain.weights)
    chain.advance(20)
    start = chain.epoch_start
    await wait_until(lambda: leader.tick is not None and leader.tick.epoch_start == start)
    assert EPOCHS_MISSED._value.get() == before + 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_fold_that_never_ran_holds_the_trimming_back_and_is_named() -> None:
    history = MemoryHistory()
    leader = engine(history, trim_folds=("scores", "gating:head"))
    tasks = [asyncio.create_task(work) for work in (leader.fold(), leader.trim())]

    def held(fold: str) -> float:
        return REGISTRY.get_sample_value("coremesh_history_trim_held_back", {"fold": fold}) or 0.0

    for _ in range(3):
        await history.append(make_event({1: 1.0}), None, [hotkey(1)])
    await wait_until(lambda: leader.book.page.state.events == 3)
    await asyncio.sleep(0.1)
    assert await leader.trim_problem() is None  # nothing to trim yet
    for _ in range(7):
        await history.append(make_event({1: 1.0}), None, [hotkey(1)])
    await wait_until(lambda: held("gating:head") == 1.0)
    assert held("scores") == 0.0
    assert REGISTRY.get_sample_value("coremesh_history_excess_events") == 7.0
    assert "events are kept for gating:head, which never ran" in (await leader.trim_problem() or "")
    assert await history.length() == 10
    lease = await history.acquire("gating", "gating", timedelta(seconds=60))
    assert lease is not None
    draft = Checkpoint(last_id=await history.last_id(), state=b"")
    await history.save("gating:head", draft, lease, ORIGIN)
    await wait_until(lambda: held("gating:head") == 0.0)
    assert await history.length() == 3
    assert await leader.trim_problem() is None
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_chain_that_answers_without_making_blocks_is_left_for_the_next_endpoint() -> None:
    chain = FakeChain()
    leader = engine(MemoryHistory(), chain)

    def failures() -> float:
        return REGISTRY.get_sample_value("coremesh_chain_failures_total") or 0.0

    before = failures()
    watching = asyncio.create_task(leader.watch())
    await wait_until(lambda: "rebuild" in chain.calls)
    assert failures() == before + chain.calls.count("rebuild")  # what ChainAway looks at
    assert "the chain has been at block 100 for" in (await leader.chain_problem() or "")
    chain.advance()

    async def well() -> bool:
        return await leader.chain_problem() is None

    await wait_until(well)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_standby_tells_the_age_of_our_weights_and_holds_nothing() -> None:
    history, chain = MemoryHistory(), FakeChain(permit=False)
    leader = engine(history, chain)
    loops = (leader.fold(), leader.watch(), leader.submit(), leader.follow())
    tasks = [asyncio.create_task(work) for work in loops]

    def held() -> float | None:
        return REGISTRY.get_sample_value("coremesh_weights_held", {"reason": "no_permit"})

    await wait_until(lambda: held() == 1.0)
    assert REGISTRY.get_sample_value("coremesh_weights_due") == 1.0
    lease = leader.runner.lease
    assert lease is not None
    await history.release(lease)
    await history.acquire("weights", "another", timedelta(seconds=60))
    await wait_until(lambda: held() is None)
    assert REGISTRY.get_sample_value("coremesh_weights_due") == 0.0
    chain.last_update[0] = chain.block
    chain.advance(7)
    await wait_until(lambda: REGISTRY.get_sample_value("coremesh_weights_age_blocks") == 7.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def running(one: Engine) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(work) for work in (one.fold(), one.follow(), one.watch(), one.submit())]


async def test_a_leader_that_cannot_reach_the_chain_leaves_the_lease_to_one_that_can() -> None:
    history, chain = MemoryHistory(), FakeChain()
    one = engine(history, FakeChain(away=True), holder="one", away_s=0.1)
    tasks = running(one)
    await wait_until(lambda: one.runner.lease)
    two = engine(history, chain, holder="two", away_s=0.1)
    tasks += running(two)
    await wait_until(lambda: two.runner.lease)
    await wait_until(history.metagraph)  # published by who reaches the chain
    assert one.runner.lease is None
    await asyncio.sleep(1)  # and it stays so
    assert await history.leader("weights") == "two"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_leader_that_is_alone_leads_on_while_the_chain_is_away() -> None:
    history = MemoryHistory()
    alone = engine(history, FakeChain(away=True), away_s=0.1)
    tasks = running(alone)
    first = await wait_until(lambda: alone.runner.lease)
    again = await wait_until(lambda: alone.runner.lease is not first and alone.runner.lease)
    assert again.token > first.token
    await history.append(make_event({1: 1.0}), None, [hotkey(1)])
    await wait_until(lambda: alone.book.page.state.events == 1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
