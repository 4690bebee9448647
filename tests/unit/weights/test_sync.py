from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from coremesh.errors import LeaseLost
from coremesh.events import Change, MetagraphEvent
from coremesh.history import Lease
from coremesh.settings import ChainSettings
from services.weights.sync import MetagraphSync
from tests.fakes.history import MemoryHistory
from tests.unit.weights.fake_chain import FakeChain


async def begun(**settings: object) -> tuple[MemoryHistory, FakeChain, MetagraphSync, Lease]:
    history, chain = MemoryHistory(), FakeChain()
    lease = await history.acquire("weights", "me", timedelta(seconds=60))
    assert lease is not None
    sync = MetagraphSync(history, chain, ChainSettings(**settings))  # type: ignore[arg-type]
    await sync.step(lease, await chain.tick(), announced=False)
    return history, chain, sync, lease


async def changes(history: MemoryHistory) -> list[tuple[Change, ...]]:
    events = [entry.event for entry in reversed(await history.tail(100))]
    return [event.changes for event in events if isinstance(event, MetagraphEvent)]


async def test_the_first_snapshot_announces_everybody() -> None:
    history, chain, sync, _ = await begun()
    assert await history.metagraph() == await chain.metagraph() == sync.newest
    assert await changes(history) == [tuple(Change(uid, "", h) for uid, h in enumerate(chain.hotkeys))]


async def test_it_is_published_again_after_so_many_blocks_and_not_before() -> None:
    history, chain, sync, lease = await begun(sync_blocks=10)
    chain.advance(9)
    await sync.step(lease, await chain.tick(), announced=True)
    assert (await history.metagraph()).block == 100  # type: ignore[union-attr]
    chain.advance(1)
    await sync.step(lease, await chain.tick(), announced=True)
    assert (await history.metagraph()).block == 110  # type: ignore[union-attr]
    assert len(await changes(history)) == 1  # nothing that folds care about


async def test_a_registration_is_published_at_once() -> None:
    history, chain, sync, lease = await begun(sync_blocks=1000)
    chain.advance()
    chain.hotkeys[2], chain.last_update[2] = "new", chain.block
    await sync.step(lease, await chain.tick(), announced=True)
    assert (await changes(history))[1:] == [(Change(2, "5Miner2", "new"),)]
    # Our own weights move LastUpdate too, and are no registration.
    chain.advance()
    chain.last_update[0] = chain.block
    calls = chain.calls.count("metagraph")
    await sync.step(lease, await chain.tick(), announced=True)
    assert chain.calls.count("metagraph") == calls


async def test_a_chain_begun_anew_is_published_at_once() -> None:
    history, chain, sync, lease = await begun(sync_blocks=1000)
    chain.block, chain.genesis = 3, "0x02"
    await sync.step(lease, await chain.tick(), announced=True)
    assert (await history.metagraph()).block == 3  # type: ignore[union-attr]


async def test_a_node_that_is_behind_takes_back_no_registration() -> None:
    history, chain, sync, lease = await begun(sync_blocks=1000)
    behind = list(chain.hotkeys)
    chain.advance(5)
    chain.hotkeys[2], chain.last_update[2] = "new", chain.block
    await sync.step(lease, await chain.tick(), announced=True)
    registered = (Change(2, "5Miner2", "new"),)
    assert (await changes(history))[1:] == [registered]
    # The next endpoint has seen two blocks less. Neither the block nor the time to publish again brings it through.
    ahead, updates = list(chain.hotkeys), list(chain.last_update)
    chain.block, chain.hotkeys, chain.last_update[2] = 103, behind, 0
    for announced in (True, False):
        sync.take_over()
        await sync.step(lease, await chain.tick(), announced=announced)
        assert (await changes(history))[1:] == [registered]
        assert (await history.metagraph()).block == sync.newest.block == 105  # type: ignore[union-attr]
    calls = chain.calls.count("metagraph")
    await sync.step(lease, await chain.tick(), announced=True)
    assert chain.calls.count("metagraph") == calls  # a node that is behind is not asked at every turn
    chain.block, chain.hotkeys, chain.last_update = 106, ahead, updates
    sync.take_over()
    await sync.step(lease, await chain.tick(), announced=True)
    assert (await changes(history))[1:] == [registered]
    assert (await history.metagraph()).block == 106  # type: ignore[union-attr]


async def test_a_standby_that_takes_over_on_a_node_behind_shows_what_is_published() -> None:
    history, chain, _, lease = await begun()
    chain.block = 90
    sync = MetagraphSync(history, chain, ChainSettings())
    await sync.step(lease, await chain.tick(), announced=True)
    assert sync.newest == await history.metagraph()
    assert sync.newest is not None
    assert sync.newest.block == 100


async def test_a_stale_leader_publishes_nothing() -> None:
    history, chain, sync, lease = await begun(sync_blocks=1)
    chain.advance(5)
    with pytest.raises(LeaseLost):
        await sync.step(Lease("weights", "me", lease.token - 1), await chain.tick(), announced=True)
    assert (await history.metagraph()).block == 100  # type: ignore[union-attr]


async def test_growth_counts_as_registration() -> None:
    history, chain, sync, lease = await begun(sync_blocks=1000)
    chain.advance()
    chain.hotkeys.append("new")
    chain.last_update.append(chain.block)
    await sync.step(lease, await chain.tick(), announced=True)
    assert (await changes(history))[1:] == [(Change(4, "", "new"),)]


async def test_a_registration_in_the_place_of_a_validator_is_published_at_once() -> None:
    """Who has a permit writes LastUpdate by setting weights, too: that alone is no registration."""
    history, chain, sync, lease = await begun(sync_blocks=1000)
    chain.permits = (2,)
    chain.advance()
    await sync.step(lease, replace(await chain.tick(), block=5000), announced=True)
    chain.last_update[2] = chain.block
    calls = chain.calls.count("metagraph")
    for _ in range(3):
        await sync.step(lease, await chain.tick(), announced=True)
    assert (chain.calls.count("metagraph"), chain.calls.count("hotkeys")) == (calls, 1)  # looked at once
    chain.advance()
    chain.hotkeys[2], chain.last_update[2] = "new", chain.block
    await sync.step(lease, await chain.tick(), announced=True)
    assert (await changes(history))[-1] == (Change(2, "5Miner2", "new"),)
