"""What a restart keeps, and how a start fails."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import bittensor as bt
import pytest
from bittensor import intents
from bittensor._generated.storage import SubtensorModule as Item
from bittensor.wallet import Wallet

from devnet.chain.testing import RunningChain, running_chain
from devnet.roster import RESIDENTS, VALIDATOR


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_keeps_state_and_genesis(chain: RunningChain, number: signal.Signals):
    miner = RESIDENTS[3]
    async with bt.Subtensor(chain.url) as client:
        axon = intents.ServeAxon(netuid=1, ip=miner.host, port=miner.port)
        assert (await client.execute(axon, Wallet(miner.name, path=str(chain.wallets_dir)))).success
        weights = intents.SetWeights(netuid=1, weights={2: 1.0, 3: 0.5})
        assert (await client.execute(weights, Wallet(VALIDATOR, path=str(chain.wallets_dir)))).success
        before = await client.subnets.metagraph(1)
    with chain.admin() as admin:
        info = admin.info()
        hashes = {n: admin.request("chain_getBlockHash", n) for n in (0, info["block"] - 1)}

    code = chain.stop(number)
    chain.start()

    assert code == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    with chain.admin() as admin:
        again = admin.info()
        assert again["block"] > info["block"]
        assert (again["genesis_hash"], again["spec_version"]) == (info["genesis_hash"], info["spec_version"])
        # After a kill the last second's blocks may be gone; genesis never is.
        kept = hashes if number != signal.SIGKILL else {0: hashes[0]}
        assert {n: admin.request("chain_getBlockHash", n) for n in kept} == kept
    async with bt.Subtensor(chain.url) as client:
        after = await client.subnets.metagraph(1)
        assert await client.query_map(Item.Weights, [1]) == [(0, [(2, 65_535), (3, 32_768)])]
        assert (after.hotkeys, after.neurons[5].axon) == (before.hotkeys, f"{miner.host}:{miner.port}")
        assert after.neurons[0].last_update == before.neurons[0].last_update
        assert (await client.execute(axon, Wallet(miner.name, path=str(chain.wallets_dir)))).success


async def test_a_client_lives_through_a_restart(chain: RunningChain):
    async with bt.Subtensor(chain.url) as client:
        first = await client.block()
        for number in (signal.SIGTERM, signal.SIGKILL):
            await asyncio.to_thread(chain.stop, number)
            await asyncio.to_thread(chain.start)
            second = await asyncio.wait_for(client.block(), 20)
            assert second > first
            first = second


async def test_another_block_time_looks_like_a_runtime_upgrade(chain: RunningChain):
    async with bt.Subtensor(chain.url) as client:
        assert await client.block_time() == 0.05
    chain.stop()
    chain.arguments += ["--block-time", "0.1"]
    chain.start()
    async with bt.Subtensor(chain.url) as client:
        assert await client.block_time() == 0.1
        axon = intents.ServeAxon(netuid=1, ip="127.9.9.9", port=9)
        assert (await client.execute(axon, Wallet(VALIDATOR, path=str(chain.wallets_dir)))).success
    with chain.admin() as admin:
        assert admin.info()["spec_version"] == 462


async def test_given_flags_apply_to_an_old_state_and_others_keep_what_it_holds(chain: RunningChain):
    with chain.admin() as admin:
        admin.set_hyperparameter(1, "min_allowed_weights", 7)
    chain.stop()
    chain.arguments += ["--tempo", "33"]
    chain.start()
    async with bt.Subtensor(chain.url) as client:
        found = await client.subnets.subnet_hyperparameters(1)
    assert (found["tempo"], found["min_allowed_weights"], found["weights_rate_limit"]) == (33, 7, 30)


def _start(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "devnet", "chain", *arguments], capture_output=True, text=True, timeout=30
    )
    return done.returncode, done.stderr.strip()


def test_a_taken_port_is_one_sentence_and_leaves_the_other_chain_alone(
    still_chain: RunningChain, tmp_path: Path
):
    port = str(still_chain.port)
    state = tmp_path / "chain.state"
    code, said = _start("--port", port, "--state", str(state), "--wallets", str(tmp_path / "w"))
    assert (code, said) == (
        2,
        f"chain: cannot listen on 127.0.0.1:{port} (Address already in use); pass another --port.",
    )
    assert not state.exists()


def test_a_state_in_use_is_not_touched(still_chain: RunningChain):
    state = still_chain.directory / "chain.state"
    code, said = _start("--port", "0", "--state", str(state), "--wallets", str(still_chain.wallets_dir))
    assert (code, said) == (
        2,
        f"chain: {state} is in use by another chain; stop that or pass another --state.",
    )


def test_a_broken_state_is_named(tmp_path: Path):
    state = tmp_path / "chain.state"
    state.write_bytes(b"nonsense")
    code, said = _start("--port", "0", "--state", str(state), "--wallets", str(tmp_path / "w"))
    assert code == 2
    assert said.startswith(f"chain: {state} is not a readable chain state")
    assert state.read_bytes() == b"nonsense"


def test_other_wallets_than_the_states_are_named(tmp_path: Path):
    with running_chain(tmp_path) as chain:
        state = chain.directory / "chain.state"
        assert chain.stop(signal.SIGINT) == 0
    code, said = _start("--port", "0", "--state", str(state), "--wallets", str(tmp_path / "others"))
    assert code == 2
    assert "made for another netuid or other wallets" in said


@pytest.mark.parametrize("flags", [["--block-time", "0"], ["--netuid", "0"], ["--tempo", "0"]])
def test_impossible_settings_exit_with_2(tmp_path: Path, flags: list[str]):
    where = ["--port", "0", "--state", str(tmp_path / "s"), "--wallets", str(tmp_path / "w")]
    code, said = _start(*where, *flags)
    assert (code, said.startswith("chain: ")) == (2, True)
