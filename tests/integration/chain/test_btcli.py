"""btcli, as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from devnet.chain.testing import RunningChain
from devnet.roster import VALIDATOR


def _btcli(chain: RunningChain, *arguments: str) -> Any:
    binary = Path(sys.executable).with_name("btcli")
    command = [
        str(binary),
        "--network",
        chain.url,
        "--wallet-path",
        str(chain.wallets_dir),
        "--json",
        *arguments,
    ]
    environment = dict(os.environ) | {"HOME": str(chain.directory)}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_btcli_sets_weights_and_shows_them(chain: RunningChain):
    vector = ("--uids", "2,3", "--weights", "1,0.5")
    done = _btcli(chain, "weights", "set", "--netuid", "1", *vector, "-w", VALIDATOR, "-y")
    assert done["success"] is True
    rows = _btcli(chain, "query", "weights", "--netuid", "1")
    # 65,535 and 32,768 of their sum.
    assert rows == {"0": {"2": 65_535 / 98_303, "3": 32_768 / 98_303}}


def test_btcli_shows_the_metagraph(still_chain: RunningChain):
    shown = _btcli(still_chain, "subnets", "metagraph", "1")
    wallets = still_chain.wallets
    assert (shown["netuid"], shown["name"], shown["tempo"], shown["num_uids"]) == (1, "devnet", 20, 25)
    assert shown["hotkeys"][:2] == [wallets[VALIDATOR].hotkey, wallets["rival-validator"].hotkey]


def test_btcli_shows_a_balance_and_stake(still_chain: RunningChain):
    shown = _btcli(still_chain, "wallet", "balance", "-w", VALIDATOR)
    assert (shown["free_tao"], shown["stake_value_tao"]) == (10_000.0, 50_000.0)
