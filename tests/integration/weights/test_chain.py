"""One contract for every Chain: the SDK's against the embedded chain, and the fake that unit tests use."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import bittensor as bt
import pytest

from coremesh.errors import BadSetting, ChainUnavailable
from coremesh.metagraph import Hyperparameters
from coremesh.settings import ChainSettings
from coremesh.wire.keys import keypair_from_uri
from coremesh.wire.wallets import load_keypair
from devnet.chain.testing import RunningChain, running_chain
from services.weights.chain import ERA_BLOCKS, Chain
from services.weights.chain.sdk import MOST_STUCK, BittensorChain
from tests.integration.weights.middle import SUBMITS, middle
from tests.unit.weights.fake_chain import FakeChain
from tests.wait import wait_until

Advance = Callable[[int], Awaitable[None]]


def sdk(chain: RunningChain, wallet: str = "validator", **settings: object) -> BittensorChain:
    keypair = load_keypair(chain.wallets_dir, wallet, "default")
    network = {"network": chain.url, "timeout_s": 5.0, **settings}
    return BittensorChain(ChainSettings(**network), keypair)  # type: ignore[arg-type]


@asynccontextmanager
async def real(tmp_path: Path, **flags: object) -> AsyncIterator[tuple[Chain, Advance]]:
    with running_chain(tmp_path, **flags) as node:  # type: ignore[arg-type]
        chain = sdk(node)

        async def advance(blocks: int) -> None:
            until = (await chain.tick()).block + blocks

            async def there() -> bool:
                return (await chain.tick()).block >= until

            await wait_until(there)

        yield chain, advance
        await chain.close()


@asynccontextmanager
async def fake(
    tmp_path: Path, *, tempo: int, rate_limit: int, min_weights: int = 1, commit_reveal: bool = False
) -> AsyncIterator[tuple[Chain, Advance]]:
    chain = FakeChain(
        size=25,
        hyperparameters=Hyperparameters(
            tempo=tempo, rate_limit=rate_limit, min_weights=min_weights, commit_reveal=commit_reveal
        ),
    )

    async def advance(blocks: int) -> None:
        chain.advance(blocks)

    yield chain, advance


def always() -> bool:
    return True


both = pytest.mark.parametrize("make", [real, fake])


@both
async def test_plain_weights_are_stored_as_sent(make, tmp_path: Path) -> None:
    async with make(tmp_path, tempo=20, rate_limit=18) as (chain, advance):
        metagraph = await chain.metagraph()
        assert metagraph.size == 25
        assert len(bytes.fromhex(metagraph.genesis.removeprefix("0x"))) == 32
        assert metagraph.neurons[metagraph.uid_of(metagraph.hotkey)].permit
        assert metagraph.hyperparameters.tempo == 20
        assert metagraph.hyperparameters.rate_limit == 18
        assert metagraph.nominators[0].stake > 0
        before = await chain.standing()
        assert (before.uid, dict(before.weights), before.commits) == (0, {}, ())
        assert before.permit
        sent = await chain.set_weights((3, 4, 7), (21845, 65535, 1), 0, 1, always)
        assert sent.accepted
        after = await chain.standing()
        assert dict(after.weights) == {3: 21845, 4: 65535, 7: 1}
        assert before.block < after.last_update <= after.block
        tick = await chain.tick()
        assert tick.last_update[0] == after.last_update
        refused = await chain.set_weights((3,), (65535,), 0, 1, always)
        assert (refused.accepted, refused.certain, refused.code) == (False, True, "rate_limited")
        await advance(20)
        assert (await chain.tick()).epoch_start > tick.epoch_start


@both
async def test_sealed_weights_are_committed_and_revealed(make, tmp_path: Path) -> None:
    async with make(tmp_path, tempo=20, rate_limit=4, commit_reveal=True) as (chain, advance):
        before = await chain.standing()
        assert before.commit_reveal
        assert (await chain.set_weights((3, 4), (21845, 65535), 0, 1, always)).accepted
        sealed = await chain.standing()
        assert [commit.block > before.block for commit in sealed.commits] == [True]
        assert dict(sealed.weights) == {}
        await advance(40)
        revealed = await chain.standing()
        assert (dict(revealed.weights), revealed.commits) == ({3: 21845, 4: 65535}, ())


@both
async def test_a_subnet_smaller_than_its_minimum_takes_a_vector_of_everybody(make, tmp_path: Path) -> None:
    async with make(tmp_path, tempo=20, rate_limit=4, min_weights=1024) as (chain, _):
        everybody = tuple(range(25))
        few = await chain.set_weights((3, 4), (1, 65535), 0, 25, always)
        assert (few.accepted, few.certain, few.code) == (False, True, "invalid_argument")
        assert (await chain.set_weights(everybody, (65535,) * 25, 0, 25, always)).accepted
        assert len((await chain.standing()).weights) == 25


async def test_the_snapshot_shows_axons_stake_and_permits(tmp_path: Path) -> None:
    async with real(tmp_path, tempo=20, rate_limit=4) as (chain, _):
        metagraph = await chain.metagraph()
        own = metagraph.neurons[metagraph.uid_of(metagraph.hotkey) or 0]
        assert own.stake > metagraph.vpermit_tao_limit
        assert metagraph.is_validator(own)
        assert [n.uid for n in metagraph.neurons] == list(range(25))
        assert not any(n.serving for n in metagraph.neurons)
        assert await chain.hotkeys_of((0, 7)) == (metagraph.hotkeys[0], metagraph.hotkeys[7])


async def test_a_miner_whose_certificate_is_text_hides_nobody_from_us(tmp_path: Path) -> None:
    with running_chain(tmp_path, tempo=20, rate_limit=5) as node:
        hostile = load_keypair(node.wallets_dir, "specialist-astronomy", "default")
        for raw in (b"\x01this is no key", b"\xff0x but no hex"):
            async with bt.Client(node.url, fallback_endpoints=[], archive_endpoints=[]) as client:
                intent = bt.ServeAxonTls(netuid=1, ip="198.51.100.7", port=80, certificate=f"0x{raw.hex()}")
                (await client.execute(intent, hostile)).raise_for_failure()
            chain = sdk(node)
            found = await chain.metagraph()
            await chain.close()
            assert [n.certificate for n in found.neurons if n.hotkey == hostile.ss58_address] == [raw.hex()]


async def test_the_same_chain_goes_on_after_the_node_was_restarted(tmp_path: Path) -> None:
    with running_chain(tmp_path, tempo=20, rate_limit=4) as node:
        chain = sdk(node, timeout_s=2.0)
        assert (await chain.set_weights((3,), (65535,), 0, 1, always)).accepted
        node.stop()
        with pytest.raises(ChainUnavailable):
            await chain.tick()
        lost = await chain.set_weights((4,), (65535,), 0, 1, always)
        assert (lost.accepted, lost.certain) == (False, False)
        node.start()

        async def back() -> bool:
            try:
                return dict((await chain.standing()).weights) == {3: 65535}
            except ChainUnavailable:
                return False

        await wait_until(back)
        await chain.close()


async def test_a_hung_node_costs_a_deadline_and_never_the_loop(tmp_path: Path) -> None:
    with running_chain(tmp_path, tempo=20, rate_limit=4) as node, node.admin() as admin:
        chain = sdk(node, timeout_s=2.0)
        await wait_until(lambda: _block(chain))
        admin.pause()
        lags: list[float] = []

        async def feel() -> None:
            while True:
                start = time.monotonic()
                await asyncio.sleep(0.01)
                lags.append(time.monotonic() - start)

        feeling = asyncio.create_task(feel())
        with pytest.raises(ChainUnavailable, match="no answer within 2 s"):
            await chain.tick()
        feeling.cancel()
        assert len(lags) > 10
        admin.resume()
        await wait_until(lambda: _block(chain))
        await chain.close()


async def _size(chain: Chain) -> int:
    try:
        return (await chain.metagraph()).size
    except ChainUnavailable:
        return 0


async def _block(chain: Chain) -> int:
    try:
        return (await chain.tick()).block
    except ChainUnavailable:
        return 0


async def test_the_next_endpoint_is_taken_when_the_first_is_dead(tmp_path: Path) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        nobody = f"ws://127.0.0.1:{dead.getsockname()[1]}"
        with running_chain(tmp_path, tempo=20, rate_limit=4) as node:
            chain = sdk(node, network=nobody, fallbacks=(node.url,))
            await wait_until(lambda: _block(chain))
            await chain.rebuild()
            await wait_until(lambda: _block(chain))
            await chain.close()


async def test_a_half_dead_connection_is_left_for_the_next_endpoint(tmp_path: Path) -> None:
    with running_chain(tmp_path, tempo=20, rate_limit=4) as node:
        async with middle(node.url) as man:
            chain = sdk(node, network=man.url, fallbacks=(node.url,), timeout_s=2.0)
            await wait_until(lambda: _block(chain))
            man.muted = True
            await wait_until(lambda: _block(chain), timeout=60)
            assert man.clients >= 1
            await chain.close()


async def test_a_node_that_answers_small_questions_only_is_left_too(tmp_path: Path) -> None:
    with running_chain(tmp_path, tempo=20, rate_limit=4) as node:
        async with middle(node.url) as man:
            chain = sdk(node, network=man.url, fallbacks=(node.url,), timeout_s=2.0)
            await wait_until(lambda: _size(chain))
            man.holds = lambda method: method == "state_call"

            async def both() -> bool:
                return await _block(chain) > 0 and await _size(chain) == 25

            await wait_until(both, timeout=60)
            assert man.held, "the node was asked, and left"
            await chain.close()


async def test_an_answer_that_nobody_foresaw_is_a_chain_that_does_not_answer(tmp_path: Path) -> None:
    with running_chain(tmp_path, tempo=20, rate_limit=4) as node:
        chain = sdk(node)

        async def strange(_client: object) -> None:
            raise KeyError("hotkeys")

        with pytest.raises(ChainUnavailable, match="KeyError: 'hotkeys'"):
            await chain._call("metagraph", strange)
        assert (await chain.tick()).block > 0
        await chain.close()


async def test_a_client_that_blocks_for_ever_leaves_a_few_threads_and_no_more() -> None:
    over = threading.Event()

    async def blocks(_client: object) -> None:
        over.wait()

    def threads() -> int:
        return sum(thread.name == "chain" and thread.is_alive() for thread in threading.enumerate())

    before = threads()
    chain = BittensorChain(ChainSettings(network="ws://127.0.0.1:9"), keypair_from_uri("//Nobody"))
    chain._connected = nothing  # type: ignore[method-assign]
    try:
        for _ in range(MOST_STUCK + 3):
            with pytest.raises(ChainUnavailable, match="stuck"):
                await chain._call("tick", blocks, 0.01)
        assert threads() - before == MOST_STUCK + 1
    finally:
        over.set()

    async def answers(_client: object) -> int:
        return 7

    assert await chain._call("tick", answers, 5.0) == 7
    await wait_until(lambda: threads() - before == 1, why="those left behind are gone")
    await chain.close()


async def nothing() -> None:
    """No client: what is called needs none."""


async def test_nothing_is_signed_once_another_leads(tmp_path: Path) -> None:
    with running_chain(tmp_path, tempo=20, rate_limit=4) as node:
        chain = sdk(node)
        sent = await chain.set_weights((3,), (65535,), 0, 1, lambda: False)
        assert (sent.accepted, sent.certain) == (False, True)
        assert "nothing was signed" in sent.message
        assert (await chain.standing()).weights == {}
        assert (await chain.set_weights((3,), (65535,), 0, 1, always)).accepted
        await chain.close()


async def test_two_instances_with_one_hotkey_never_trip_over_each_others_nonces(tmp_path: Path) -> None:
    with running_chain(tmp_path, tempo=20, rate_limit=0) as node:
        pair = [sdk(node), sdk(node)]
        for turn in range(6):
            sent = await pair[turn % 2].set_weights((3,), (65535,), 0, 1, always)
            assert sent.accepted, sent.message
        for chain in pair:
            await chain.close()


async def test_what_waits_in_the_pool_is_known_to_be_on_its_way(tmp_path: Path) -> None:
    """Another process of ours has sent it, and was killed before a block took it."""
    with running_chain(tmp_path, block_time=1.5, tempo=20, rate_limit=4) as node:
        chain, killed = sdk(node), sdk(node)
        assert not (await chain.standing()).pending
        sending = asyncio.create_task(killed.set_weights((3,), (65535,), 0, 1, always))

        async def on_its_way() -> bool:
            return (await chain.standing()).pending

        await wait_until(on_its_way, why="it waits in the pool")
        assert (await sending).accepted

        async def landed() -> bool:
            standing = await chain.standing()
            return not standing.pending and standing.weights == {3: 65535}

        await wait_until(landed, why="it is in a block")
        await chain.close()
        await killed.close()


@pytest.mark.parametrize(("blocks", "taken"), [(0, True), (ERA_BLOCKS, False)])
async def test_a_signature_is_worth_nothing_after_so_many_blocks(
    tmp_path: Path, blocks: int, taken: bool
) -> None:
    """Signed, and sent only when the process that had been stopped goes on."""
    with running_chain(tmp_path, block_time=0.2, tempo=200, rate_limit=4) as node:
        async with middle(node.url) as man:
            stopped, chain = sdk(node, network=man.url), sdk(node)
            man.holds = lambda method: method == SUBMITS
            sending = asyncio.create_task(stopped.set_weights((3,), (65535,), 0, 1, always))
            await wait_until(lambda: man.held, why="it is signed and on the wire")
            until = (await chain.tick()).block + blocks

            async def passed() -> bool:
                return (await chain.tick()).block >= until

            await wait_until(passed)
            (answer,) = await man.release()
            assert ("result" in answer) is taken, answer

            async def included() -> bool:
                standing = await chain.standing()
                return standing.block > until + 2 and not standing.pending

            await wait_until(included)
            assert dict((await chain.standing()).weights) == ({3: 65535} if taken else {})
            sending.cancel()
            await stopped.close()
            await chain.close()


async def test_a_hotkey_that_is_not_registered_is_refused(tmp_path: Path) -> None:
    with running_chain(tmp_path, tempo=20, rate_limit=4) as node:
        chain = BittensorChain(ChainSettings(network=node.url), keypair_from_uri("//Nobody"))
        assert (await chain.standing()).uid is None
        sent = await chain.set_weights((3,), (65535,), 0, 1, always)
        assert (sent.accepted, sent.certain, sent.code) == (False, True, "not_registered")
        await chain.close()


def test_an_unknown_network_is_a_bad_setting() -> None:
    with pytest.raises(BadSetting, match="COREMESH_CHAIN_NETWORK"):
        BittensorChain(ChainSettings(network="nowhere"), keypair_from_uri("//Nobody"))
