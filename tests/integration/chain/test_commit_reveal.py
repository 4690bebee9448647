"""Timelocked weights with the unmodified SDK, opened without a network."""

from __future__ import annotations

from pathlib import Path

import bittensor as bt
import pytest
from bittensor import intents
from bittensor._generated.storage import SubtensorModule as Item
from bittensor.result import ChainError
from bittensor.wallet import Wallet

from devnet.chain.testing import running_chain
from devnet.roster import VALIDATOR


async def test_commit_reveal_and_weights_end_to_end(tmp_path: Path):
    with running_chain(tmp_path, tempo=30, rate_limit=3, commit_reveal=True) as chain:
        validator = Wallet(VALIDATOR, path=str(chain.wallets_dir))
        async with bt.Subtensor(chain.url) as client:
            result = await client.execute(intents.SetWeights(netuid=1, weights={2: 1.0, 3: 0.25}), validator)
            assert result.success, result.message
            committed_at = int(str(result.extrinsic_id).split("-")[0])
            at = await client.at(committed_at)
            (epoch, commits), *others = await at.query_map(Item.TimelockedWeightCommits, [1])
            assert (others, len(commits)) == ([], 1)
            assert commits[0][:2] == (chain.wallets[VALIDATOR].hotkey, committed_at)
            assert (await at.query(Item.LastUpdate, [1]))[0] == committed_at
            assert await at.query_map(Item.Weights, [1]) == []
            while await client.query(Item.SubnetEpochIndex, [1]) <= epoch:
                await client.wait_for_epoch(1, timeout=20)
            assert await client.query_map(Item.Weights, [1]) == [(0, [(2, 65_535), (3, 16_384)])]
            assert await client.query_map(Item.TimelockedWeightCommits, [1]) == []
            assert (await client.query(Item.LastUpdate, [1]))[0] == committed_at


async def test_a_plain_set_is_refused_while_commit_reveal_is_on(tmp_path: Path):
    with running_chain(tmp_path, rate_limit=3, commit_reveal=True, drand="off") as chain:
        validator = Wallet(VALIDATOR, path=str(chain.wallets_dir))
        async with bt.Subtensor(chain.url) as client:
            from bittensor._generated import calls

            plain = calls.SubtensorModule.set_mechanism_weights(
                netuid=1, mecid=0, dests=[2], weights=[1], version_key=0
            )
            result = await client.submit_call(plain, validator, signer="hotkey")
            assert (result.success, result.error.name) == (False, "CommitRevealEnabled")
            assert await client.block_time() == 0.05
            with chain.admin() as admin:
                admin.set_hyperparameter(1, "weights_rate_limit", 500)
            sealed = intents.SetWeights(netuid=1, weights={2: 1.0})
            assert (await client.execute(sealed, validator)).success
            with pytest.raises(ChainError, match="rate limit"):
                await client.execute(sealed, validator)
