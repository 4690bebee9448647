"""Runtime APIs: what ``state_call`` answers, computed from the state at one block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from devnet.chain import accounts, epoch, neurons, subnet
from devnet.chain.hyperparameters import HYPERPARAMETERS, as_entries
from devnet.chain.options import RAO
from devnet.chain.state import View

Api = Callable[..., Any]
_APIS: dict[str, Api] = {}
# Root baskets do not exist on the devnet; clients that list or sum them up get nothing.
_EMPTY = ("BetaBasketRuntimeApi_", "TransactionPaymentApi_query_", "TransactionPaymentCallApi_query_")


class UnknownApi(Exception):
    """The devnet does not have this runtime API."""


def answer(view: View, name: str, params: bytes) -> bytes:
    """Run one runtime API; UnknownApi, or ValueError for parameters that do not decode."""
    codec = view.codec
    if name == "Metadata_metadata_at_version":
        return _metadata(view, int.from_bytes(params[:4], "little"))
    shape = codec.apis.get(name)
    if shape is None:
        raise UnknownApi(name)
    if name.startswith(_EMPTY):
        return codec.encode(shape["output"], codec.blank(shape["output"]))
    api = _APIS.get(name)
    if api is None:
        raise UnknownApi(name)
    return codec.encode(shape["output"], api(view, *codec.decode_params(name, params)))


def _metadata(view: View, version: int) -> bytes:
    if version != 15:
        return b"\x00"
    data = view.codec.metadata_bytes
    return b"\x01" + (len(data) << 2 | 2).to_bytes(4, "little") + data


def _api(name: str) -> Callable[[Api], Api]:
    def register(function: Api) -> Api:
        _APIS[name] = function
        return function

    return register


@_api("AccountNonceApi_account_nonce")
def _account_nonce(view: View, account: str) -> int:
    return accounts.nonce(view, account)


@_api("SubnetInfoRuntimeApi_get_metagraph")
def _metagraph(view: View, netuid: int) -> dict[str, Any] | None:
    return neurons.metagraph(view, netuid)


@_api("SubnetInfoRuntimeApi_get_mechagraph")
def _mechagraph(view: View, netuid: int, mechanism: int) -> dict[str, Any] | None:
    return neurons.metagraph(view, netuid) if mechanism == 0 else None


@_api("SubnetInfoRuntimeApi_get_all_metagraphs")
def _all_metagraphs(view: View) -> list[dict[str, Any] | None]:
    return [neurons.metagraph(view, netuid) for netuid in _netuids(view)]


@_api("SubnetInfoRuntimeApi_get_dynamic_info")
def _dynamic_info(view: View, netuid: int) -> dict[str, Any] | None:
    return neurons.dynamic_info(view, netuid)


@_api("SubnetInfoRuntimeApi_get_all_dynamic_info")
def _all_dynamic_info(view: View) -> list[dict[str, Any] | None]:
    return [neurons.dynamic_info(view, netuid) for netuid in _netuids(view)]


@_api("SubnetInfoRuntimeApi_get_next_epoch_start_block")
def _next_epoch(view: View, netuid: int) -> int | None:
    return epoch.due_at(view, netuid) if netuid and _exists(view, netuid) else None


@_api("SubnetInfoRuntimeApi_get_subnet_hyperparams_v3")
def _hyperparameters(view: View, netuid: int) -> list[dict[str, Any]] | None:
    return as_entries(view, netuid) if _exists(view, netuid) else None


def _older_hyperparameters(view: View, netuid: int, name: str) -> dict[str, Any] | None:
    if not _exists(view, netuid):
        return None
    record = view.codec.fields(view.codec.apis[name]["output"])
    values = {key: view.read(entry.item, netuid) for key, entry in HYPERPARAMETERS.items()}
    return record | {key: value for key, value in values.items() if key in record}


@_api("SubnetInfoRuntimeApi_get_subnet_hyperparams")
def _hyperparameters_v1(view: View, netuid: int) -> dict[str, Any] | None:
    return _older_hyperparameters(view, netuid, "SubnetInfoRuntimeApi_get_subnet_hyperparams")


@_api("SubnetInfoRuntimeApi_get_subnet_hyperparams_v2")
def _hyperparameters_v2(view: View, netuid: int) -> dict[str, Any] | None:
    return _older_hyperparameters(view, netuid, "SubnetInfoRuntimeApi_get_subnet_hyperparams_v2")


@_api("NeuronInfoRuntimeApi_get_neurons_lite")
def _neurons_lite(view: View, netuid: int) -> list[dict[str, Any]]:
    return neurons.neurons(view, netuid)


@_api("NeuronInfoRuntimeApi_get_neurons")
def _neurons(view: View, netuid: int) -> list[dict[str, Any]]:
    return neurons.neurons(view, netuid, weights=True)


@_api("NeuronInfoRuntimeApi_get_neuron_lite")
def _neuron_lite(view: View, netuid: int, uid: int) -> dict[str, Any] | None:
    found = neurons.neurons(view, netuid)
    return found[uid] if uid < len(found) else None


@_api("NeuronInfoRuntimeApi_get_neuron")
def _neuron(view: View, netuid: int, uid: int) -> dict[str, Any] | None:
    found = neurons.neurons(view, netuid, weights=True)
    return found[uid] if uid < len(found) else None


@_api("DelegateInfoRuntimeApi_get_delegate")
def _delegate(view: View, hotkey: str) -> dict[str, Any] | None:
    if not view.has("Delegates", hotkey):
        return None
    nominators: dict[str, list[tuple[int, int]]] = {}
    for (coldkey, netuid), share in view.items("Alpha", hotkey):
        nominators.setdefault(coldkey, []).append((netuid, share["bits"] >> 64))
    registrations = [netuid for netuid, _ in view.items("IsNetworkMember", hotkey)]
    permits = [
        netuid
        for netuid in registrations
        if subnet.vector(view, "ValidatorPermit", netuid)[view.read("Uids", netuid, hotkey)]
    ]
    return {
        "delegate_ss58": hotkey,
        "take": view.read("Delegates", hotkey),
        "nominators": sorted(nominators.items()),
        "owner_ss58": view.read("Owner", hotkey),
        "registrations": registrations,
        "validator_permits": permits,
        "return_per_1000": 0,
        "total_daily_return": 0,
    }


@_api("DelegateInfoRuntimeApi_get_delegates")
def _delegates(view: View) -> list[dict[str, Any] | None]:
    return [_delegate(view, hotkey) for hotkey, _ in view.items("Delegates")]


@_api("DelegateInfoRuntimeApi_get_delegated")
def _delegated(view: View, coldkey: str) -> list[Any]:
    return [
        (_delegate(view, row["hotkey"]), (row["netuid"], row["stake"]))
        for row in _stake_of(view, coldkey)
        if view.has("Delegates", row["hotkey"])
    ]


def _stake_info(view: View, hotkey: str, coldkey: str, netuid: int) -> dict[str, Any]:
    return {
        "hotkey": hotkey,
        "coldkey": coldkey,
        "netuid": netuid,
        "stake": accounts.stake(view, hotkey, coldkey, netuid),
        "locked": 0,
        "emission": 0,
        "tao_emission": 0,
        "drain": 0,
        "is_registered": view.read("Uids", netuid, hotkey) is not None,
    }


@_api("StakeInfoRuntimeApi_get_stake_info_for_hotkey_coldkey_netuid")
def _stake_at(view: View, hotkey: str, coldkey: str, netuid: int) -> dict[str, Any]:
    return _stake_info(view, hotkey, coldkey, netuid)


@_api("StakeInfoRuntimeApi_get_stake_info_for_coldkey")
def _stake_of(view: View, coldkey: str) -> list[dict[str, Any]]:
    rows = [
        _stake_info(view, hotkey, coldkey, netuid)
        for hotkey in view.read("StakingHotkeys", coldkey)
        for netuid in _netuids(view)
    ]
    return [row for row in rows if row["stake"]]


@_api("StakeInfoRuntimeApi_get_stake_info_for_coldkeys")
def _stake_of_all(view: View, coldkeys: list[str]) -> list[Any]:
    return [(coldkey, _stake_of(view, coldkey)) for coldkey in coldkeys]


@_api("StakeInfoRuntimeApi_get_stake_availability_for_coldkeys")
def _availability(view: View, coldkeys: list[str], netuids: list[int] | None) -> dict[str, Any]:
    wanted = _netuids(view) if netuids is None else sorted(set(netuids))
    found: dict[str, Any] = {}
    for coldkey in coldkeys:
        held = dict.fromkeys(wanted, 0)
        for row in _stake_of(view, coldkey):
            if row["netuid"] in held:
                held[row["netuid"]] += row["stake"]
        found[coldkey] = {n: {"total": rao, "locked": 0, "available": rao} for n, rao in held.items()}
    return found


@_api("StakeInfoRuntimeApi_get_coldkey_lock")
def _coldkey_lock(_view: View, _coldkey: str, _netuid: int) -> None:
    return None


@_api("SubnetRegistrationRuntimeApi_get_network_registration_cost")
def _network_cost(_view: View) -> int:
    return 1_000 * RAO


@_api("SwapRuntimeApi_current_alpha_price")
def _price(_view: View, _netuid: int) -> int:
    return RAO


@_api("SwapRuntimeApi_current_alpha_price_all")
def _prices(view: View) -> list[dict[str, int]]:
    return [{"netuid": netuid, "price": RAO} for netuid in _netuids(view)]


@_api("SwapRuntimeApi_sim_swap_tao_for_alpha")
def _buy(_view: View, _netuid: int, tao: int) -> dict[str, int]:
    return _swap(tao)


@_api("SwapRuntimeApi_sim_swap_alpha_for_tao")
def _sell(_view: View, _netuid: int, alpha: int) -> dict[str, int]:
    return _swap(alpha)


def _swap(amount: int) -> dict[str, int]:
    free_of_charge = {"tao_fee": 0, "alpha_fee": 0, "tao_slippage": 0, "alpha_slippage": 0}
    return {"tao_amount": amount, "alpha_amount": amount, **free_of_charge}


@_api("StakeInfoRuntimeApi_get_stake_fee")
def _stake_fee(_view: View, *_arguments: Any) -> int:
    return 0


def _netuids(view: View) -> list[int]:
    return sorted(netuid for netuid, added in view.items("NetworksAdded") if added)


def _exists(view: View, netuid: int) -> bool:
    return view.read("NetworksAdded", netuid)
