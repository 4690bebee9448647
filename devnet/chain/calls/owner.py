"""Hyperparameters set by the subnet's owner; those that need root fail with BadOrigin."""

from __future__ import annotations

from devnet.chain.dispatch import Context, Fail, handles
from devnet.chain.hyperparameters import BY_CALL, HYPERPARAMETERS, set_hyperparameter


def _setter(name: str) -> None:
    @handles("AdminUtils", HYPERPARAMETERS[name].call or "")
    def set_one(context: Context, netuid: int, **arguments: int | bool) -> None:
        context.require_subnet(netuid)
        owner = context.state.read("SubnetOwner", netuid)
        if context.signer != owner or not HYPERPARAMETERS[name].owner_may_set:
            raise Fail("BadOrigin", None)
        (value,) = arguments.values()
        try:
            set_hyperparameter(context.state, netuid, name, value)
        except ValueError:
            raise Fail("InvalidValue") from None


for _name in BY_CALL.values():
    _setter(_name)
