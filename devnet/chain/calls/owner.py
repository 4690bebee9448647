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


def _require_owner(context: Context, netuid: int) -> None:
    context.require_subnet(netuid)
    if context.signer != context.state.read("SubnetOwner", netuid):
        raise Fail("NotSubnetOwner")


@handles("SubtensorModule", "set_tempo")
def set_tempo(context: Context, netuid: int, tempo: int) -> None:
    """Change how many blocks an epoch has."""
    _require_owner(context, netuid)
    if tempo == 0:
        raise Fail("TempoOutOfBounds")
    set_hyperparameter(context.state, netuid, "tempo", tempo)
    context.emit("TempoSet", (netuid, tempo))


@handles("SubtensorModule", "trigger_epoch")
def trigger_epoch(context: Context, netuid: int) -> None:
    """Run an epoch at the next block."""
    _require_owner(context, netuid)
    if context.state.read("PendingEpochAt", netuid):
        raise Fail("EpochTriggerAlreadyPending")
    context.state.write("PendingEpochAt", netuid, value=context.block + 1)
