"""Balances, nonces and stake. Alpha trades one to one against TAO, and one share is one rao."""

from __future__ import annotations

from devnet.chain.state import State, View

_SHARE = 1 << 64


def free(view: View, account: str) -> int:
    """Free balance, rao."""
    return view.read("System.Account", account)["data"]["free"]


def nonce(view: View, account: str) -> int:
    """The nonce the account's next extrinsic must carry."""
    return view.read("System.Account", account)["nonce"]


def set_free(state: State, account: str, rao: int) -> None:
    """Set a free balance; total issuance follows."""
    info = state.read("System.Account", account)
    delta = rao - info["data"]["free"]
    info["data"]["free"] = rao
    info["data"]["flags"] = 1 << 127
    info["providers"] = max(1, info["providers"])
    state.write("System.Account", account, value=info)
    for item in ("Balances.TotalIssuance", "TotalIssuance"):
        state.write(item, value=max(0, state.read(item) + delta))


def bump_nonce(state: State, account: str) -> None:
    """Count one extrinsic of the account."""
    info = state.read("System.Account", account)
    info["nonce"] += 1
    state.write("System.Account", account, value=info)


def stake(view: View, hotkey: str, coldkey: str, netuid: int) -> int:
    """What a coldkey has staked on a hotkey, rao of the subnet's alpha."""
    return view.read("Alpha", hotkey, coldkey, netuid)["bits"] // _SHARE


def total_stake(view: View, hotkey: str, netuid: int) -> int:
    """All stake on a hotkey, rao."""
    return view.read("TotalHotkeyAlpha", hotkey, netuid)


def set_stake(state: State, hotkey: str, coldkey: str, netuid: int, rao: int) -> None:
    """Set one coldkey's stake on a hotkey; the totals follow."""
    total = total_stake(state, hotkey, netuid) - stake(state, hotkey, coldkey, netuid) + rao
    if rao:
        state.write("Alpha", hotkey, coldkey, netuid, value={"bits": rao * _SHARE})
    else:
        state.delete("Alpha", hotkey, coldkey, netuid)
    state.write("TotalHotkeyAlpha", hotkey, netuid, value=total)
    state.write("TotalHotkeyShares", hotkey, netuid, value={"bits": total * _SHARE})
    known = state.read("StakingHotkeys", coldkey)
    if rao and hotkey not in known:
        state.write("StakingHotkeys", coldkey, value=[*known, hotkey])
