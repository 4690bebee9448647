"""The unmodified SDK against a chain process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest
from bittensor import ErrorCode, intents
from bittensor._generated.runtime_apis import DelegateInfoRuntimeApi
from bittensor._generated.storage import SubtensorModule as Item
from bittensor.result import ChainError
from bittensor.wallet import Wallet

from devnet.chain.testing import RunningChain
from devnet.roster import RESIDENTS, RIVAL, VALIDATOR

RAO = 10**9


def _wallet(chain: RunningChain, name: str) -> Wallet:
    return Wallet(name, path=str(chain.wallets_dir))


async def test_the_metagraph_shows_the_roster(still_chain: RunningChain):
    async with bt.Subtensor(still_chain.url) as client:
        metagraph = await client.subnets.metagraph(1)
        lite = await client.neurons.all(1)
        hyperparameters = await client.subnets.subnet_hyperparameters(1)
    names = [VALIDATOR, RIVAL, *(resident.name for resident in RESIDENTS)]
    assert metagraph is not None
    assert metagraph.hotkeys == [still_chain.wallets[name].hotkey for name in names]
    assert metagraph.coldkeys == [still_chain.wallets[name].coldkey for name in names]
    assert [neuron.uid for neuron in metagraph.validators] == [0, 1]
    assert [int(n.total_stake.rao) for n in metagraph.neurons[:3]] == [54_000 * RAO, 5_000 * RAO, 0]
    assert {neuron.axon for neuron in metagraph} == {None}
    assert [neuron.hotkey for neuron in lite] == metagraph.hotkeys
    assert (hyperparameters["tempo"], hyperparameters["weights_rate_limit"]) == (20, 30)


async def test_an_axon_is_served_and_seen(chain: RunningChain):
    miner = RESIDENTS[0]
    async with bt.Subtensor(chain.url) as client:
        call = intents.ServeAxon(netuid=1, ip=miner.host, port=miner.port)
        result = await client.execute(call, _wallet(chain, miner.name))
        refused = await client.execute(
            intents.ServeAxon(netuid=1, ip="127.0.0.1", port=80), _wallet(chain, miner.name)
        )
        metagraph = await client.subnets.metagraph(1)
    assert result.success
    assert (refused.success, refused.error.name) == (False, "InvalidIpAddress")
    assert metagraph.neurons[2].axon == f"{miner.host}:{miner.port}"


async def test_weights_are_set_and_read_back_by_another_client(chain: RunningChain):
    validator = _wallet(chain, VALIDATOR)
    async with bt.Subtensor(chain.url) as client:
        result = await client.execute(
            intents.SetWeights(netuid=1, weights={2: 1.0, 3: 0.5, 4: 0.0}), validator
        )
        assert result.success, result.message
        with pytest.raises(ChainError) as refused:
            await client.execute(intents.SetWeights(netuid=1, weights={2: 1.0}), validator)
        assert refused.value.code == ErrorCode.RATE_LIMITED

    def read_back() -> tuple[Any, int]:
        with bt.Subtensor(chain.url) as other:
            rows = other.query_map(Item.Weights, [1])
            return rows, other.query(Item.LastUpdate, [1])[0]

    rows, last_update = await asyncio.to_thread(read_back)
    assert rows == [(0, [(2, 65_535), (3, 32_768)])]
    assert last_update == int(str(result.extrinsic_id).split("-")[0])


async def test_who_may_not_set_weights(chain: RunningChain, tmp_path: Path):
    stranger = Wallet("stranger", path=str(tmp_path / "others"))
    stranger.create_new_coldkey(use_password=False, suppress=True)
    stranger.create_new_hotkey(suppress=True)
    call = intents.SetWeights(netuid=1, weights={2: 1.0, 3: 1.0})
    async with bt.Subtensor(chain.url) as client:
        with pytest.raises(ChainError) as unregistered:
            await client.execute(call, stranger)
        poor = await client.execute(call, _wallet(chain, RESIDENTS[0].name))
        with chain.admin() as admin:
            admin.set_hyperparameter(1, "weights_version", 9)
        outdated = await client.execute(call, _wallet(chain, VALIDATOR))
    assert unregistered.value.code == ErrorCode.NOT_REGISTERED
    assert (poor.success, poor.error.name) == (False, "StakeAmountTooLow")
    assert (outdated.success, outdated.error.name, outdated.error.code) == (
        False,
        "IncorrectWeightVersionKey",
        ErrorCode.INVALID_ARGUMENT,
    )


async def test_a_validator_without_a_permit_is_told_so(chain: RunningChain):
    miner = RESIDENTS[0].name
    keys = chain.wallets[miner]
    with chain.admin() as admin:
        admin.set_stake(1, keys.hotkey, keys.coldkey, 20_000)
    async with bt.Subtensor(chain.url) as client:
        call = intents.SetWeights(netuid=1, weights={3: 1.0, 4: 1.0})
        early = await client.execute(call, _wallet(chain, miner))
        await client.wait_for_epoch(1, timeout=20)
        late = await client.execute(call, _wallet(chain, miner))
    assert (early.success, early.error.name, early.error.code) == (
        False,
        "NeuronNoValidatorPermit",
        ErrorCode.NOT_AUTHORIZED,
    )
    assert late.success


async def test_an_epoch_turns_weights_into_incentive(chain: RunningChain):
    async with bt.Subtensor(chain.url) as client:
        call = intents.SetWeights(netuid=1, weights={2: 3.0, 3: 1.0})
        assert (await client.execute(call, _wallet(chain, VALIDATOR))).success
        epoch = await client.wait_for_epoch(1, timeout=20)
        metagraph = await client.subnets.metagraph(1)
    assert epoch.block - epoch.previous == 20
    assert [round(neuron.incentive, 3) for neuron in metagraph.neurons[:5]] == [0, 0, 0.75, 0.25, 0]
    assert metagraph.neurons[0].dividends == 1.0
    assert metagraph.neurons[2].emission.rao > 0


async def test_nominators_are_listed(still_chain: RunningChain):
    wallets = still_chain.wallets
    async with bt.Subtensor(still_chain.url) as client:
        raw = await client.runtime(DelegateInfoRuntimeApi.get_delegate, [wallets[VALIDATOR].hotkey])
        nobody = await client.runtime(DelegateInfoRuntimeApi.get_delegate, [wallets["dead"].hotkey])
    assert dict(raw["nominators"]) == {
        wallets[VALIDATOR].coldkey: [(1, 50_000 * RAO)],
        wallets["nominator-1"].coldkey: [(1, 2_500 * RAO)],
        wallets["nominator-2"].coldkey: [(1, 1_500 * RAO)],
    }
    assert (raw["owner_ss58"], raw["registrations"], raw["validator_permits"]) == (
        wallets[VALIDATOR].coldkey,
        [1],
        [1],
    )
    assert nobody is None


async def test_heads_come_in_order_and_the_past_stays_readable(still_chain: RunningChain):
    async with bt.Subtensor(still_chain.url) as client:
        seen = []
        async for header in client.blocks():
            seen.append(header.number)
            if len(seen) == 5:
                break
        assert seen == list(range(seen[0], seen[0] + 5))
        stamps = [await client.timestamp(block=number) for number in seen]
        assert stamps == sorted(stamps)
        assert await client.block_time() == 0.05
        assert (
            await client.query(Item.BlocksSinceLastStep, [1], block=seen[1])
            == (await client.query(Item.BlocksSinceLastStep, [1], block=seen[0]) + 1) % 20
        )


async def test_a_shielded_registration_burns_and_gets_a_uid(chain: RunningChain, tmp_path: Path):
    newcomer = Wallet("newcomer", path=str(tmp_path / "others"))
    newcomer.create_new_coldkey(use_password=False, suppress=True)
    newcomer.create_new_hotkey(suppress=True)
    address = newcomer.coldkeypub.ss58_address
    async with bt.Subtensor(chain.url) as client:
        broke = await client.execute(intents.BurnedRegister(netuid=1), newcomer)
        with chain.admin() as admin:
            assert admin.faucet(address, 3.5) == {"free_rao": 3_500_000_000}
    # Another client: after a shielded call the SDK's nonce cache does not count the inner extrinsic.
    async with bt.Subtensor(chain.url) as client:
        result = await client.execute(intents.BurnedRegister(netuid=1), newcomer)
        uid = await client.query(Item.Uids, [1, newcomer.hotkey.ss58_address])
        balance = await client.balances.get(address)
    assert (broke.success, broke.error.name) == (False, "NotEnoughBalanceToStake")
    assert result.success, result.message
    assert (uid, balance.rao) == (2 + len(RESIDENTS), 3_400_000_000)


async def test_transfers_in_a_row_land(chain: RunningChain):
    giver, taker = _wallet(chain, "owner"), chain.wallets["dead"].coldkey
    async with bt.Subtensor(chain.url) as client:
        results = [
            await client.execute(intents.Transfer(dest_ss58=taker, amount_tao=1), giver) for _ in range(3)
        ]
        assert [result.success for result in results] == [True] * 3
        assert (await client.balances.get(taker)).rao == 10_003 * RAO
