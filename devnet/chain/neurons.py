"""Neurons as the runtime APIs present them: the metagraph, neuron records, the subnet's pool."""

from __future__ import annotations

from typing import Any

from devnet.chain import accounts, subnet
from devnet.chain.calls.weights import weighed_stake
from devnet.chain.hyperparameters import HYPERPARAMETERS
from devnet.chain.state import View

NAME = "devnet"


def metagraph(view: View, netuid: int) -> dict[str, Any] | None:
    """The ``Metagraph`` record, None for a subnet that does not exist."""
    if not view.read("NetworksAdded", netuid):
        return None
    hotkeys = subnet.hotkeys(view, netuid)
    uids = range(len(hotkeys))
    zeros = [0] * len(hotkeys)
    record = view.codec.fields(view.codec.apis["SubnetInfoRuntimeApi_get_metagraph"]["output"])
    record |= {key: view.read(entry.item, netuid) for key, entry in HYPERPARAMETERS.items() if key in record}
    record |= _pool(view, netuid)
    return record | {
        "name": _octets(NAME),
        "symbol": _octets(view.read("TokenSymbol", netuid)),
        "block": view.number,
        "num_uids": len(hotkeys),
        "max_uids": view.read("MaxAllowedUids", netuid),
        "burn": view.read("Burn", netuid),
        "hotkeys": hotkeys,
        "coldkeys": [view.read("Owner", hotkey) for hotkey in hotkeys],
        "identities": [None for _ in uids],
        "axons": [view.read("Axons", netuid, hotkey) or subnet.NO_AXON for hotkey in hotkeys],
        "active": subnet.vector(view, "Active", netuid),
        "validator_permit": subnet.vector(view, "ValidatorPermit", netuid),
        "pruning_score": zeros,
        "last_update": subnet.vector(view, "LastUpdate", netuid),
        "emission": subnet.vector(view, "Emission", netuid),
        "dividends": subnet.vector(view, "Dividends", netuid),
        "incentives": subnet.vector(view, "Incentive", netuid),
        "consensus": subnet.vector(view, "Consensus", netuid),
        "trust": zeros,
        "rank": zeros,
        "block_at_registration": [view.read("BlockAtRegistration", netuid, uid) for uid in uids],
        "alpha_stake": [accounts.total_stake(view, hotkey, netuid) for hotkey in hotkeys],
        "tao_stake": [accounts.total_stake(view, hotkey, 0) for hotkey in hotkeys],
        "total_stake": [weighed_stake(view, hotkey, netuid) for hotkey in hotkeys],
        "collateral_locked": zeros,
        "collateral_min": zeros,
        "collateral_earned": zeros,
    }


def dynamic_info(view: View, netuid: int) -> dict[str, Any] | None:
    """The ``DynamicInfo`` record, None for a subnet that does not exist."""
    if not view.read("NetworksAdded", netuid):
        return None
    record = view.codec.fields(view.codec.apis["SubnetInfoRuntimeApi_get_dynamic_info"]["output"])
    pool = {key: value for key, value in _pool(view, netuid).items() if key in record}
    named = {"subnet_name": _octets(NAME), "token_symbol": _octets(view.read("TokenSymbol", netuid))}
    return record | pool | named | {"tempo": view.read("Tempo", netuid)}


def _pool(view: View, netuid: int) -> dict[str, Any]:
    return {
        "netuid": netuid,
        "owner_hotkey": view.read("SubnetOwnerHotkey", netuid),
        "owner_coldkey": view.read("SubnetOwner", netuid),
        "network_registered_at": view.read("NetworkRegisteredAt", netuid),
        "last_step": view.read("LastEpochBlock", netuid),
        "blocks_since_last_step": view.read("BlocksSinceLastStep", netuid),
        "alpha_in": view.read("SubnetAlphaIn", netuid),
        "alpha_out": sum(
            accounts.total_stake(view, hotkey, netuid) for hotkey in subnet.hotkeys(view, netuid)
        ),
        "tao_in": view.read("SubnetTAO", netuid),
        "moving_price": {"bits": 1 << 32},
    }


def neurons(view: View, netuid: int, *, weights: bool = False) -> list[dict[str, Any]]:
    """``NeuronInfoLite`` records by uid, ``NeuronInfo`` with ``weights``."""
    columns = {
        "active": subnet.vector(view, "Active", netuid),
        "emission": subnet.vector(view, "Emission", netuid),
        "incentive": subnet.vector(view, "Incentive", netuid),
        "consensus": subnet.vector(view, "Consensus", netuid),
        "validator_trust": subnet.vector(view, "ValidatorTrust", netuid),
        "dividends": subnet.vector(view, "Dividends", netuid),
        "last_update": subnet.vector(view, "LastUpdate", netuid),
        "validator_permit": subnet.vector(view, "ValidatorPermit", netuid),
    }
    records = []
    for uid, hotkey in enumerate(subnet.hotkeys(view, netuid)):
        owner = view.read("Owner", hotkey)
        record = {key: column[uid] for key, column in columns.items()} | {
            "hotkey": hotkey,
            "coldkey": owner,
            "uid": uid,
            "netuid": netuid,
            "axon_info": view.read("Axons", netuid, hotkey) or subnet.NO_AXON,
            "prometheus_info": view.read("Prometheus", netuid, hotkey) or subnet.NO_PROMETHEUS,
            "stake": [(owner, accounts.total_stake(view, hotkey, netuid))],
            "rank": 0,
            "trust": 0,
            "pruning_score": 0,
        }
        if weights:
            record |= {"weights": view.read("Weights", netuid, uid), "bonds": []}
        records.append(record)
    return records


def _octets(text: str) -> list[int]:
    return list(text.encode())
