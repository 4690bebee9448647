"""Methods no real chain has, for tests and for whoever runs a devnet; all are named ``devnet_*``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from devnet.chain import accounts, epoch, subnet
from devnet.chain.chain import Chain
from devnet.chain.hyperparameters import HYPERPARAMETERS, set_hyperparameter
from devnet.chain.options import RAO
from devnet.chain.rpc import INVALID_PARAMS, UNKNOWN_METHOD, RpcError
from devnet.chain.state import State


class Gate:
    """Whether the node answers and whether it makes blocks; ``devnet_*`` is always answered."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.answering.set()
        self.makes_blocks = True


def call(chain: Chain, gate: Gate, method: str, params: list[Any]) -> Any:
    """Run one devnet method; RpcError when it is unknown or refuses its parameters."""
    function = _METHODS.get(method)
    if function is None:
        raise RpcError(UNKNOWN_METHOD, f"Method not found: {method}")
    try:
        return function(chain, gate, *params)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as problem:
        raise RpcError(INVALID_PARAMS, f"Invalid params: {problem}") from problem


def _rao(tao: float) -> int:
    rao = round(float(tao) * RAO)
    if not 0 <= rao <= 21_000_000 * RAO:
        raise ValueError("an amount must be between 0 and 21 million TAO")
    return rao


def _faucet(chain: Chain, _gate: Gate, account: str, tao: float) -> dict[str, Any]:
    """Add TAO to an account's free balance."""
    amount = _rao(tao)

    def write(state: State) -> None:
        accounts.set_free(state, account, accounts.free(state, account) + amount)

    chain.change(write)
    return {"free_rao": accounts.free(chain.state, account)}


def _replace_hotkey(
    chain: Chain, _gate: Gate, netuid: int, uid: int, hotkey: str, coldkey: str
) -> dict[str, Any]:
    """Give a uid to another hotkey, as a registration on a full subnet would."""
    state = chain.state
    if netuid != chain.netuid or not 0 <= uid < subnet.size(state, netuid):
        raise ValueError(f"no uid {uid} on netuid {netuid}")
    if state.read("Uids", netuid, hotkey) is not None:
        raise ValueError(f"{hotkey} is registered already")
    old = state.read("Keys", netuid, uid)
    chain.change(lambda head: subnet.place(head, netuid, uid, hotkey, coldkey))
    return {"uid": uid, "old_hotkey": old, "hotkey": hotkey, "block": chain.number}


def _set_hyperparameter(chain: Chain, _gate: Gate, netuid: int, name: str, value: int | bool) -> bool:
    """Set any hyperparameter, as root could."""
    if netuid != chain.netuid or name not in HYPERPARAMETERS:
        raise ValueError(f"no hyperparameter {name} on netuid {netuid}")
    chain.change(lambda head: set_hyperparameter(head, netuid, name, value))
    return True


def _set_stake(
    chain: Chain, _gate: Gate, netuid: int, hotkey: str, coldkey: str, tao: float
) -> dict[str, Any]:
    """Set what a coldkey has staked on a hotkey; permits follow at the next epoch."""
    amount = _rao(tao)
    chain.change(lambda head: accounts.set_stake(head, hotkey, coldkey, netuid, amount))
    return {"total_rao": accounts.total_stake(chain.state, hotkey, netuid)}


def _pause(_chain: Chain, gate: Gate, paused: bool, blocks: bool = True) -> bool:
    """Stop answering (requests wait, connections stay open), and with ``blocks`` stop making blocks too."""
    gate.makes_blocks = not (paused and blocks)
    if paused:
        gate.answering.clear()
    else:
        gate.answering.set()
    return paused


def _info(chain: Chain, gate: Gate) -> dict[str, Any]:
    """What the node is and holds."""
    return {
        "block": chain.number,
        "genesis_hash": chain.blocks.genesis_hash,
        "spec_version": chain.codec.spec_version,
        "netuid": chain.netuid,
        "block_time_s": chain.options.block_time_s,
        "drand": chain.options.drand.value,
        "uids": subnet.size(chain.state, chain.netuid),
        "epoch": chain.state.read("SubnetEpochIndex", chain.netuid),
        "next_epoch_block": epoch.due_at(chain.state, chain.netuid),
        "pool": len(chain.pool),
        "extrinsics_applied": chain.extrinsics_applied,
        "stored_keys": len(chain.state.store),
        "superseded_values": chain.state.store.superseded,
        "answering": gate.answering.is_set(),
        "makes_blocks": gate.makes_blocks,
    }


_METHODS: dict[str, Callable[..., Any]] = {
    "devnet_faucet": _faucet,
    "devnet_replaceHotkey": _replace_hotkey,
    "devnet_setHyperparameter": _set_hyperparameter,
    "devnet_setStake": _set_stake,
    "devnet_pause": _pause,
    "devnet_info": _info,
}
