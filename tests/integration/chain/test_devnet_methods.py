"""The methods that only a devnet has, through their client and their commands."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import bittensor as bt
import pytest
from bittensor import intents
from bittensor._generated.storage import SubtensorModule as Item
from bittensor.wallet import Wallet

from devnet.chain.admin import AdminError
from devnet.chain.testing import RunningChain
from devnet.roster import RESIDENTS, VALIDATOR


def _devnet(chain: RunningChain, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "devnet", *arguments, "--node", chain.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_a_replaced_hotkey_starts_over_and_the_others_stay(chain: RunningChain):
    miner = RESIDENTS[0]
    async with bt.Subtensor(chain.url) as client:
        axon = intents.ServeAxon(netuid=1, ip=miner.host, port=miner.port)
        assert (await client.execute(axon, Wallet(miner.name, path=str(chain.wallets_dir)))).success
        before = await client.subnets.metagraph(1)
        done = await asyncio.to_thread(
            _devnet,
            chain,
            "replace",
            "--uid",
            "2",
            "--wallets",
            str(chain.wallets_dir),
            "--wallet",
            "newcomer",
        )
        assert done.returncode == 0, done.stderr
        after = await client.subnets.metagraph(1)
        gone = await client.query(Item.Uids, [1, before.hotkeys[2]])
    newcomer = Wallet("newcomer", path=str(chain.wallets_dir))
    assert after.hotkeys == [*before.hotkeys[:2], newcomer.hotkey.ss58_address, *before.hotkeys[3:]]
    assert (before.neurons[2].axon, after.neurons[2].axon, gone) == (f"{miner.host}:{miner.port}", None, None)
    assert after.neurons[2].coldkey == newcomer.coldkeypub.ss58_address
    registered = [neuron.block_at_registration for neuron in after.neurons]
    assert [block > 0 for block in registered] == [uid == 2 for uid in range(len(registered))]
    with chain.admin() as admin, pytest.raises(AdminError, match="registered already"):
        admin.replace_hotkey(1, 3, newcomer.hotkey.ss58_address, newcomer.coldkeypub.ss58_address)


def test_the_faucet_command_pays(chain: RunningChain):
    account = chain.wallets["dead"].coldkey
    done = _devnet(chain, "faucet", account, "1.5")
    assert (done.returncode, done.stdout.strip()) == (0, "{'free_rao': 10001500000000}")
    bad = _devnet(chain, "faucet", "not-an-address", "1")
    assert (bad.returncode, bad.stderr.startswith("faucet: devnet_faucet: Invalid params")) == (1, True)


def test_a_command_without_a_node_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "devnet", "faucet", "x", "1", "--node", "ws://127.0.0.1:9"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


async def test_a_paused_node_hangs_and_a_resumed_one_answers(chain: RunningChain):
    async with bt.Subtensor(chain.url) as client:
        await client.block()
        with chain.admin() as admin:
            admin.pause()
            held = admin.info()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.block(), 0.5)
            assert admin.info() == held
            assert (held["answering"], held["makes_blocks"]) == (False, False)
            admin.resume()
        assert await asyncio.wait_for(client.block(), 10) >= held["block"]


def test_stake_and_hyperparameters_can_be_set(chain: RunningChain):
    keys = chain.wallets[VALIDATOR]
    with chain.admin() as admin:
        assert admin.set_stake(1, keys.hotkey, keys.coldkey, 10) == {"total_rao": 4_010 * 10**9}
        admin.set_hyperparameter(1, "tempo", 500)
        assert admin.info()["next_epoch_block"] >= 500
        for name, value in (("tempo", 0), ("nonsense", 1), ("tempo", 70_000)):
            with pytest.raises(AdminError, match="Invalid params"):
                admin.set_hyperparameter(1, name, value)
        with pytest.raises(AdminError, match="Method not found"):
            admin.request("devnet_format")
