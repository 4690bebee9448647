"""Getting a uid by burning TAO. Proof-of-work registration burns like the others: nobody mines on a devnet."""

from __future__ import annotations

from typing import Any

from devnet.chain import accounts, subnet
from devnet.chain.dispatch import Context, Fail, handles


def _register(context: Context, netuid: int, hotkey: str, *, limit: int | None = None) -> None:
    state = context.state
    context.require_subnet(netuid)
    if not state.read("NetworkRegistrationAllowed", netuid):
        raise Fail("SubNetRegistrationDisabled")
    if state.read("Uids", netuid, hotkey) is not None:
        raise Fail("HotKeyAlreadyRegisteredInSubNet")
    if state.has("Owner", hotkey) and state.read("Owner", hotkey) != context.signer:
        raise Fail("NonAssociatedColdKey")
    burn = state.read("Burn", netuid)
    if limit is not None and burn > limit:
        raise Fail("RegistrationPriceLimitExceeded")
    available = accounts.free(state, context.signer)
    if available < burn:
        raise Fail("NotEnoughBalanceToStake")
    accounts.set_free(state, context.signer, available - burn)
    uid = subnet.register(state, netuid, hotkey, context.signer)
    context.emit("NeuronRegistered", (netuid, uid, hotkey))


@handles("SubtensorModule", "burned_register")
def burned_register(context: Context, netuid: int, hotkey: str) -> None:
    """Register a hotkey of the signing coldkey at the current price."""
    _register(context, netuid, hotkey)


@handles("SubtensorModule", "register_limit")
def register_limit(context: Context, netuid: int, hotkey: str, limit_price: int) -> None:
    """Register unless the price is above ``limit_price``, rao."""
    _register(context, netuid, hotkey, limit=limit_price)


@handles("SubtensorModule", "register")
def register(
    context: Context, netuid: int, block_number: int, nonce: int, work: Any, hotkey: str, coldkey: str
) -> None:
    """Register with proof of work, which is not looked at."""
    if coldkey != context.signer:
        raise Fail("NonAssociatedColdKey")
    _register(context, netuid, hotkey)
