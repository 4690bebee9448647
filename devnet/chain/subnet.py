"""Neurons of a subnet: registering, replacing, serving, and the per-uid vectors."""

from __future__ import annotations

from typing import Any

from devnet.chain.state import State, View

# Per-uid vectors, extended at registration. `index` items are keyed by mechanism, which is the netuid here.
VECTORS: dict[str, Any] = {
    "Active": True,
    "ValidatorPermit": False,
    "LastUpdate": 0,
    "Consensus": 0,
    "Incentive": 0,
    "Dividends": 0,
    "ValidatorTrust": 0,
    "Emission": 0,
}
NO_AXON = {
    "block": 0,
    "version": 0,
    "ip": 0,
    "port": 0,
    "ip_type": 0,
    "protocol": 0,
    "placeholder1": 0,
    "placeholder2": 0,
}
NO_PROMETHEUS = {"block": 0, "version": 0, "ip": 0, "port": 0, "ip_type": 0}


def size(view: View, netuid: int) -> int:
    """Number of uids."""
    return view.read("SubnetworkN", netuid)


def hotkeys(view: View, netuid: int) -> list[str]:
    """Hotkeys by uid."""
    return [view.read("Keys", netuid, uid) for uid in range(size(view, netuid))]


def vector(view: View, item: str, netuid: int) -> list[Any]:
    """A per-uid vector, as long as the subnet has uids."""
    values, length = list(view.read(item, netuid)), size(view, netuid)
    return values[:length] + [VECTORS[item]] * (length - len(values))


def set_at(state: State, item: str, netuid: int, uid: int, value: Any) -> None:
    """Change one uid's entry of a per-uid vector."""
    values = vector(state, item, netuid)
    values[uid] = value
    state.write(item, netuid, value=values)


def own(state: State, hotkey: str, coldkey: str) -> None:
    """Tie a hotkey to a coldkey."""
    state.write("Owner", hotkey, value=coldkey)
    owned = state.read("OwnedHotkeys", coldkey)
    if hotkey not in owned:
        state.write("OwnedHotkeys", coldkey, value=[*owned, hotkey])


def register(state: State, netuid: int, hotkey: str, coldkey: str) -> int:
    """Give a hotkey a uid: a new one, or on a full subnet that of the worst neuron out of immunity."""
    length = size(state, netuid)
    if length < state.read("MaxAllowedUids", netuid):
        state.write("SubnetworkN", netuid, value=length + 1)
        uid = length
    else:
        uid = _worst(state, netuid)
    place(state, netuid, uid, hotkey, coldkey)
    return uid


def _worst(view: View, netuid: int) -> int:
    """The uid to give away: lowest emission among the non-immune, then oldest registration, then lowest."""
    now, immunity = view.number, view.read("ImmunityPeriod", netuid)
    owner = view.read("SubnetOwnerHotkey", netuid)
    emission = vector(view, "Emission", netuid)
    ranked = []
    for uid, hotkey in enumerate(hotkeys(view, netuid)):
        if hotkey == owner:
            continue
        registered = view.read("BlockAtRegistration", netuid, uid)
        ranked.append((now - registered < immunity, emission[uid], registered, uid))
    return min(ranked)[3]


def place(state: State, netuid: int, uid: int, hotkey: str, coldkey: str) -> None:
    """Put a hotkey at a uid as a registration at this block does; a previous holder loses axon and weights.

    Weights of others to this uid stay stored: an epoch masks those set at or before the registration block.
    """
    block = state.number
    if state.has("Keys", netuid, uid):
        old = state.read("Keys", netuid, uid)
        for item in ("Uids", "Axons", "Prometheus", "NeuronCertificates"):
            state.delete(item, netuid, old)
        state.delete("IsNetworkMember", old, netuid)
        state.delete("Weights", netuid, uid)
        state.delete("Bonds", netuid, uid)
    state.write("Keys", netuid, uid, value=hotkey)
    state.write("Uids", netuid, hotkey, value=uid)
    state.write("IsNetworkMember", hotkey, netuid, value=True)
    state.write("BlockAtRegistration", netuid, uid, value=block)
    for item, blank in VECTORS.items():
        set_at(state, item, netuid, uid, block if item == "LastUpdate" else blank)
    own(state, hotkey, coldkey)
